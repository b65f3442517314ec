"""Sources of labelled tasks: bundled, a local table, or GLUE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gdrop_viz.base.checks import one_of
from gdrop_viz.models.bundled import bundled_tasks, data_folder
from gdrop_viz.models.checksums import verify
from gdrop_viz.models.hub import looks_like_path
from gdrop_viz.text.glue import GLUE, glue_splits
from gdrop_viz.text.labelled import (
    Kind,
    class_names,
    columns_of,
    labelled,
    split_by_column,
    split_by_share,
    standard_columns,
    values_of,
)
from gdrop_viz.text.tables import as_dataset, read_folder, read_table, split_of
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
    name: Any,
    *,
    text: str | int | None = None,
    text_pair: str | int | None = None,
    label: str | int | None = None,
    validation: float | str | os.PathLike[str] | None = None,
    kind: Kind | None = None,
    metrics: Sequence[str] | None = None,
    resplit: Literal["pooled"] | None = None,
    seed: int = 0,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    separator: str | None = None,
    header: bool | None = None,
    encoding: str | None = None,
) -> Task:
    """Load a labelled task: bundled, a local file or folder, rows in memory, or one of GLUE from the hub.

    Parameters
    ----------
    name
        One of `models.bundled.bundled_tasks()`, such as "sentiment"; the path of a csv, tsv, txt, json, jsonl or
        parquet file, or of a folder with one for each split (GLUE's "RTE" as it is downloaded, with train.tsv and
        dev.tsv); a `Dataset`, an `IterableDataset`, a DataFrame or a list of dicts, or a mapping of splits to them; or
        "glue/cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte" or "wnli" after "glue/".
    text, text_pair, label
        The columns of a file or table; without a header by number. By default those of the usual names: "text" or
        "sentence", pairs such as "sentence1" and "sentence2", and "label", "score" and so on. Labels may be numbers,
        booleans or words; words become classes in alphabetical order. A test set without labels is left out.
    validation
        Of one file or table: the share of its rows to validate on (drawn by `seed`, stratified; equal texts stay on one
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
    separator, header, encoding
        Of a csv, tsv or txt file, where looking at it does not find them: what stands between cells, whether the first
        row names the columns, and the encoding, such as "latin-1".

    Raises
    ------
    FileNotFoundError, TypeError, ValueError, RuntimeError
        In one line, if there is no such task, file or column, if labels are missing, or the hub cannot be reached.

    >>> load_task("sentiment").to_frame()["rows"].to_dict()
    {'train': 6901, 'validation': 1549, 'test': 1591}
    >>> rows = [{"sentence": f"text {i}", "label": ("good", "bad")[i % 2]} for i in range(20)]
    >>> load_task(rows).label_names
    ('bad', 'good')
    """
    one_of(resplit, (None, "pooled"), "resplit")
    columns = {"text": text, "text_pair": text_pair, "label": label}
    layout = {"separator": separator, "header": header, "encoding": encoding}
    local = {**columns, "validation": validation, "kind": kind, **layout}
    from_glue = isinstance(name, str) and name.startswith("glue/") and not Path(name).exists()
    if not from_glue and (source is not None or revision is not None):
        raise ValueError(
            f"expected 'glue/...' with source= and revision=, which say where GLUE comes from, got {name!r}"
        )
    if from_glue or (isinstance(name, str) and name in bundled_tasks()):
        if any(value is not None for value in local.values()):
            given = ", ".join(f"{key}=" for key, value in local.items() if value is not None)
            raise ValueError(f"expected a local file or rows in memory with {given}, got {name!r}; leave them out")
        task = _from_glue(name, metrics, source, revision) if from_glue else _bundled(name, metrics)
    else:
        title, tables = _tables(name, layout)
        task = _from_tables(
            title, tables, columns, validation=validation, kind=kind, metrics=metrics, seed=seed, layout=layout
        )
    return _pooled(task, seed) if resplit and not task.more_validation else task


# -- bundled, files and tables -----------------------------------------------------------------------------------------


def _bundled(name: str, metrics: Sequence[str] | None) -> Task:
    file = data_folder() / "tasks" / f"{name}.csv"
    verify(file)
    task = _from_tables(name, {"train": read_table(file)}, {}, metrics=metrics or _BUNDLED_METRICS.get(name))
    return replace(task, label_names=_BUNDLED_LABELS.get(name, task.label_names))


def _tables(name: Any, layout: Mapping[str, Any]) -> tuple[str, dict[str, Dataset]]:
    """Return what to call a task, and its tables by split; one that is not split yet is called "train"."""
    if isinstance(name, Mapping) and name and all(map(split_of, name)):
        splits = [str(split_of(split)) for split in name]
        if len(set(splits)) < len(splits):
            raise ValueError(f"expected one table for each split, got {', '.join(map(str, name))}")
        return "task", {split: as_dataset(rows, "rows") for split, rows in zip(splits, name.values(), strict=True)}
    if not isinstance(name, (str, os.PathLike)):
        return "task", {"train": as_dataset(name, "name as a task's name, a path or rows:")}
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve().name, read_folder(path, **layout)
    if not looks_like_path(os.fspath(name)):
        raise FileNotFoundError(
            f"expected a bundled task ({', '.join(bundled_tasks()) or 'none'}), one of GLUE (glue/"
            f"{', glue/'.join(GLUE)}) or the path of a csv, tsv, json, jsonl or parquet file, got {name!r}"
        )
    return path.stem, {"train": read_table(path, lines=False, **layout)}


def _from_tables(
    name: str,
    tables: Mapping[str, Dataset],
    columns: Mapping[str, str | int | None],
    *,
    validation: float | str | os.PathLike[str] | None = None,
    kind: Kind | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    layout: Mapping[str, Any] | None = None,
) -> Task:
    tables = dict(tables)
    if "train" not in tables:
        raise ValueError(f"expected a table called 'train' in {name!r}, got {', '.join(tables)}")
    train = tables["train"]
    chosen = columns_of(name, train, **{key: columns.get(key) for key in ("text", "text_pair", "label")})
    if "test" in tables and chosen["label"] not in tables["test"].column_names:
        del tables["test"]
    if validation is None and len(tables) == 1 and "split" in train.column_names:
        validation = "split"
    by_column = isinstance(validation, str) and validation in train.column_names and len(tables) == 1
    if validation is not None and "validation" in tables:
        raise ValueError(f"expected no validation= for {name!r}, which is split already, got {validation!r}")
    if isinstance(validation, (str, os.PathLike)) and not by_column:
        tables["validation"] = _second_file(name, validation, train, layout or {})
    parts = {split: standard_columns(name, table, chosen) for split, table in tables.items()}
    if by_column:
        parts = split_by_column(name, parts["train"], values_of(train, str(validation)))
    glue = GLUE.get("".join(filter(str.isalnum, name.lower())))
    given = class_names(train, chosen["label"])
    rows, kind, names = labelled(name, parts, kind or (glue.kind if glue else None), chosen["label"], given)
    if "validation" not in rows:
        share = 0.2 if validation is None else validation
        rows |= split_by_share(rows["train"], share, stratify=kind == "classification", seed=seed)
    usual = ("accuracy",) if kind == "classification" else ("pearson", "spearman")
    return Task(
        name=name,
        train=rows.pop("train"),
        validation=rows.pop("validation"),
        test=rows.pop("test", None),
        kind=kind,
        n_labels=len(names) or 1,
        metrics=tuple(metrics or (glue.metrics if glue and glue.kind == kind else usual)),
        label_names=names,
        more_validation=rows,
    )


def _second_file(name: str, validation: str | os.PathLike[str], first: Dataset, layout: Mapping[str, Any]) -> Dataset:
    if not Path(validation).expanduser().is_file():
        has, got = ", ".join(first.column_names), repr(os.fspath(validation))
        raise FileNotFoundError(f"expected validation as a file or a column of {name!r}: {has}, got {got}")
    return read_table(validation, lines=False, **layout)


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
    columns = {"text": glue.text, "text_pair": glue.text_pair, "label": "label"}
    chosen = columns_of(name, splits["train"], **columns)
    parts = {split: standard_columns(name, table, chosen) for split, table in splits.items()}
    numbers = () if glue.kind == "regression" else tuple(map(str, range(glue.n_labels)))
    given = class_names(splits["train"], "label") or numbers
    rows, kind, names = labelled(name, parts, glue.kind, "label", given)
    return Task(
        name=f"glue/{config}",
        train=rows["train"],
        validation=rows[glue.validation[0]],
        kind=kind,
        n_labels=glue.n_labels,
        metrics=tuple(metrics or glue.metrics),
        label_names=names,
        more_validation={split: rows[split] for split in glue.validation[1:]},
    )
