"""Sources of labelled tasks: bundled, a local table, or GLUE."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gdrop_viz.base.checks import one_of
from gdrop_viz.models.bundled import bundled_tasks, data_folder
from gdrop_viz.models.checksums import verify
from gdrop_viz.models.hub import looks_like_path
from gdrop_viz.text.glue import GLUE, glue_splits
from gdrop_viz.text.labelled import (
    Kind,
    as_numbers,
    kind_of,
    split_by_column,
    split_by_share,
    standard_columns,
    values_of,
    with_labels,
)
from gdrop_viz.text.tables import read_table
from gdrop_viz.text.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Task", "load_task"]

_BUNDLED_METRICS = {
    "sentiment": ("accuracy",),
    "rating": ("pearson", "spearman", "mse"),
    "acceptability": ("matthews", "accuracy"),
}
_BUNDLED_LABELS = {"sentiment": ("negative", "positive"), "acceptability": ("corrupted", "real")}
POOLED_VALIDATION = 0.2


def load_task(
    name: str | os.PathLike[str],
    *,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    validation: float | str | os.PathLike[str] | None = None,
    kind: Kind | None = None,
    metrics: Sequence[str] | None = None,
    resplit: Literal["pooled"] | None = None,
    seed: int = 0,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Task:
    """Load a labelled task: bundled, a local file, or one of GLUE from the Hugging Face hub.

    Parameters
    ----------
    name
        One of `models.bundled.bundled_tasks()`, such as "sentiment"; the path of a csv, tsv, json, jsonl or parquet
        file; or "glue/cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte" or "wnli" after "glue/".
    text, text_pair, label
        The columns of a local file. Labels may be numbers or words; words become classes in alphabetical order.
    validation
        Of a local file: the share of its rows to validate on (drawn by `seed`, stratified; equal texts stay on one
        side), or the column whose values are "train", "validation" and "test", or a second file. By default the column
        "split" if there is one, else a fifth of the rows.
    kind
        "classification" or "regression"; by default a regression if the labels are not whole numbers or words.
    metrics
        Names of the metrics, the primary one first; by default the task's own.
    resplit
        "pooled": join train and validation rows, shuffle them by `seed` and validate on a fifth, as the paper does.
        MNLI keeps its own two validation sets, also as in the paper.
    seed
        Of `validation` and `resplit`.
    source, revision
        Where GLUE comes from: a hub id or a local folder in its layout, and a branch, tag or commit.

    Raises
    ------
    FileNotFoundError, ValueError, RuntimeError
        In one line, if there is no such task, file or column, if labels are missing, or the hub cannot be reached.

    >>> load_task("sentiment").to_frame()["rows"].to_dict()
    {'train': 6901, 'validation': 1549, 'test': 1591}
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"expected name as a bundled task, a path or 'glue/...', got {type(name).__name__}")
    one_of(resplit, (None, "pooled"), "resplit")
    name = os.fspath(name)
    if not name.startswith("glue/") and (source is not None or revision is not None):
        raise ValueError(
            f"expected 'glue/...' with source= and revision=, which say where GLUE comes from, got {name!r}"
        )
    if name in bundled_tasks() or (name.startswith("glue/") and not Path(name).is_file()):
        if (text, text_pair, label, validation, kind) != ("text", None, "label", None, None):
            raise ValueError(
                f"expected a local file with text=, text_pair=, label=, validation= or kind=, got {name!r}; leave "
                "them out"
            )
        task = _from_glue(name, metrics, source, revision) if name.startswith("glue/") else _bundled(name, metrics)
    elif looks_like_path(name):
        task = _from_table(
            Path(name).stem,
            read_table(name),
            text=text,
            text_pair=text_pair,
            label=label,
            validation=validation,
            kind=kind,
            metrics=metrics,
            seed=seed,
        )
    else:
        raise FileNotFoundError(
            f"expected a bundled task ({', '.join(bundled_tasks()) or 'none'}), one of GLUE (glue/"
            f"{', glue/'.join(GLUE)}) or the path of a csv, tsv, json, jsonl or parquet file, got {name!r}"
        )
    return _pooled(task, seed) if resplit and not task.more_validation else task


# -- bundled and local tables ------------------------------------------------------------------------------------------


def _bundled(name: str, metrics: Sequence[str] | None) -> Task:
    file = data_folder() / "tasks" / f"{name}.csv"
    verify(file)
    table = read_table(file)
    task = _from_table(name, table, metrics=metrics or _BUNDLED_METRICS.get(name))
    return replace(task, label_names=_BUNDLED_LABELS.get(name, task.label_names))


def _from_table(
    name: str,
    table: Dataset,
    *,
    text: str = "text",
    text_pair: str | None = None,
    label: str = "label",
    validation: float | str | os.PathLike[str] | None = None,
    kind: Kind | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> Task:
    def standard(rows: Dataset) -> Dataset:
        return standard_columns(name, rows, text=text, text_pair=text_pair, label=label)

    from datasets import concatenate_datasets

    if validation is None:
        validation = "split" if "split" in table.column_names else 0.2
    n_train, rows = len(table), standard(table)
    if isinstance(validation, (str, os.PathLike)) and validation not in table.column_names:
        if not Path(validation).expanduser().is_file():
            has = ", ".join(table.column_names)
            got = repr(os.fspath(validation))
            raise FileNotFoundError(f"expected validation as a file or a column of {name!r}: {has}, got {got}")
        rows = concatenate_datasets([rows, standard(read_table(validation))])
    labels = values_of(rows, "label")
    kind = kind or kind_of(name, labels)
    classes = sorted(set(labels)) if kind == "classification" else [None]
    if kind == "classification":
        if len(classes) < 2:
            raise ValueError(f"expected two classes or more in {name!r}, got only the label {classes[0]!r}")
        number = {value: i for i, value in enumerate(classes)}
        rows = with_labels(rows, [number[value] for value in labels])
    else:
        rows = with_labels(rows, as_numbers(name, labels))
    if len(rows) > n_train:
        splits = {"train": rows.select(range(n_train)), "validation": rows.select(range(n_train, len(rows)))}
    elif isinstance(validation, (str, os.PathLike)):
        splits = split_by_column(name, rows, values_of(table, str(validation)))
    else:
        splits = split_by_share(rows, validation, stratify=kind == "classification", seed=seed)
    return Task(
        name=name,
        **splits,
        kind=kind,
        n_labels=len(classes),
        metrics=tuple(metrics or (("accuracy",) if kind == "classification" else ("pearson", "spearman"))),
        label_names=tuple(map(str, classes)) if kind == "classification" else (),
    )


def _pooled(task: Task, seed: int) -> Task:
    from datasets import concatenate_datasets

    pool = concatenate_datasets([task.train, task.validation])
    order = np.random.default_rng(seed).permutation(len(pool))
    cut = round((1 - POOLED_VALIDATION) * len(pool))
    return replace(task, train=pool.select(order[:cut]), validation=pool.select(order[cut:]))


# -- GLUE --------------------------------------------------------------------------------------------------------------


def _from_glue(
    name: str, metrics: Sequence[str] | None, source: str | os.PathLike[str] | None, revision: str | None
) -> Task:
    config = name.removeprefix("glue/").lower().replace("-", "")
    if config not in GLUE:
        raise FileNotFoundError(f"expected a task of GLUE, glue/{', glue/'.join(GLUE)}, got {name!r}")
    glue = GLUE[config]
    splits = glue_splits(config, source=source, revision=revision)
    names = tuple(getattr(splits["train"].features.get("label"), "names", None) or ())
    number = float if glue.n_labels == 1 else int
    rows = {
        split: standard_columns(name, data, text=glue.text, text_pair=glue.text_pair, label="label")
        for split, data in splits.items()
    }
    rows = {
        split: with_labels(data, [number(label) for label in values_of(data, "label")]) for split, data in rows.items()
    }
    return Task(
        name=f"glue/{config}",
        train=rows["train"],
        validation=rows[glue.validation[0]],
        kind="regression" if glue.n_labels == 1 else "classification",
        n_labels=glue.n_labels,
        metrics=tuple(metrics or glue.metrics),
        label_names=names,
        more_validation={split: rows[split] for split in glue.validation[1:]},
    )
