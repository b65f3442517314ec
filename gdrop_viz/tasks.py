"""What is a fine-tuned model to learn, on which rows, and how is it scored?"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gdrop_viz import _metrics
from gdrop_viz._checksums import verify
from gdrop_viz._glue import GLUE, glue_splits
from gdrop_viz._hub import looks_like_path, read_table
from gdrop_viz._labelled import (
    as_numbers,
    drawing_order,
    kind_of,
    split_by_column,
    split_by_share,
    standard_columns,
    values_of,
    with_labels,
)
from gdrop_viz.bundled import bundled_tasks, data_folder

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

Kind = Literal["classification", "regression"]

_BUNDLED_METRICS = {
    "sentiment": ("accuracy",),
    "rating": ("pearson", "spearman", "mse"),
    "acceptability": ("matthews", "accuracy"),
}
_BUNDLED_LABELS = {"sentiment": ("negative", "positive"), "acceptability": ("corrupted", "real")}
POOLED_VALIDATION = 0.2


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled task: its rows, what kind of label they have, and the metrics.

    Attributes
    ----------
    name
        What tables call it.
    train, validation, test
        `datasets.Dataset` with the columns "text", "text_pair" (for pairs of texts only) and "label". Labels are
        0 ... n_labels - 1, or real numbers for a regression. `test` may be None.
    kind
        "classification" or "regression".
    n_labels
        The number of classes; 1 for a regression.
    metrics
        Names of "accuracy", "f1", "matthews" (classification), "pearson", "spearman", "mse" (regression); the first is
        the one that comparisons look at.
    label_names
        What the classes are called, in order.
    more_validation
        Further validation sets by name: MNLI's "validation_mismatched".

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"text": ["good", "bad"] * 8, "label": [1, 0] * 8})
    >>> task = Task("mine", train=rows, validation=rows)
    >>> len(task.fraction(0.25).train)
    4
    >>> task.compute_metrics([1, 1], [1, 0])
    {'accuracy': 0.5}
    """

    name: str
    train: Dataset = field(repr=False)
    validation: Dataset = field(repr=False)
    test: Dataset | None = field(default=None, repr=False)
    kind: Kind = "classification"
    n_labels: int = 2
    metrics: tuple[str, ...] = ("accuracy",)
    label_names: tuple[str, ...] = ()
    more_validation: Mapping[str, Dataset] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        known = {"classification": _metrics.CLASSIFICATION, "regression": _metrics.REGRESSION}
        if self.kind not in known:
            raise ValueError(f"kind must be 'classification' or 'regression', got {self.kind!r}")
        if self.kind == "regression":
            object.__setattr__(self, "n_labels", 1)
        unknown = [metric for metric in self.metrics if metric not in known[self.kind]]
        if unknown or not self.metrics:
            raise ValueError(f"metrics of a {self.kind} must be among {known[self.kind]}, got {tuple(self.metrics)}")
        for split, rows in self.splits.items():
            missing = {"text", "label"} - set(rows.column_names)
            if missing:
                raise ValueError(f"{self.name}'s {split} rows need the columns text and label, got {rows.column_names}")
            if not len(rows):
                raise ValueError(f"{self.name} has no {split} rows")
            labels = np.asarray(values_of(rows, "label"))
            if self.kind == "classification" and not set(np.unique(labels)) <= set(range(self.n_labels)):
                raise ValueError(
                    f"{self.name}'s {split} labels must be 0 ... {self.n_labels - 1}, got {np.unique(labels)[:10]}"
                )

    @property
    def splits(self) -> dict[str, Dataset]:
        """All sets of rows by name: "train", "validation", those of `more_validation`, and "test" if there is one."""
        test = {} if self.test is None else {"test": self.test}
        return {"train": self.train, "validation": self.validation, **self.more_validation, **test}

    @property
    def is_pair(self) -> bool:
        """Whether each row has two texts."""
        return "text_pair" in self.train.column_names

    def fraction(self, fraction: float, seed: int = 0) -> Task:
        """Return the task with a share of its training rows; validation and test stay whole.

        For one seed the shares are nested: every row of 25 % is also in 50 %. Each class keeps its share, up to
        rounding. The rows stay in their order, so 1.0 gives all rows as they are.

        Raises
        ------
        ValueError
            If `fraction` is not in (0, 1], or leaves no row.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction!r}")
        n = round(fraction * len(self.train))
        if n < 1:
            raise ValueError(f"a fraction of {fraction} of {len(self.train)} training rows leaves none")
        return self.subset(n_train=n, seed=seed)

    def subset(self, *, n_train: int | None = None, n_validation: int | None = None, seed: int = 0) -> Task:
        """Return the task with that many rows, drawn by `seed`; None keeps all. Nested and stratified as `fraction`.

        Every validation set is cut to `n_validation`.
        """
        validation = {name: self._drawn(rows, n_validation, seed, name) for name, rows in self._validation_sets.items()}
        return replace(
            self,
            train=self._drawn(self.train, n_train, seed, "training"),
            validation=validation.pop("validation"),
            more_validation=validation,
        )

    def compute_metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        """Return the task's metrics, the primary one first.

        `predictions` are class numbers (N,) or scores (N, n_labels), of which the highest counts; for a regression
        real numbers (N,) or (N, 1). Constant predictions have correlation 0; constant labels give NaN.

        Raises
        ------
        ValueError
            If the numbers of predictions and labels differ, or predictions are not finite.
        """
        predictions = np.asarray(predictions)
        if not np.isfinite(predictions).all():
            raise ValueError("predictions hold NaN or infinity; the model has diverged")
        if predictions.ndim == 2:
            predictions = predictions[:, 0] if predictions.shape[1] == 1 else predictions.argmax(axis=1)
        return _metrics.compute(self.metrics, predictions, labels)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per split: its size, and the size of each class or the labels' mean and standard deviation."""
        import pandas as pd

        rows = {}
        for split, data in self.splits.items():
            labels = np.asarray(values_of(data, "label"))
            if self.kind == "regression":
                rows[split] = {"rows": len(labels), "mean": labels.mean(), "std": labels.std()}
            else:
                names = self.label_names or range(self.n_labels)
                counts = np.bincount(labels, minlength=self.n_labels).tolist()
                rows[split] = {"rows": len(labels), **{str(n): c for n, c in zip(names, counts, strict=True)}}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")

    def _repr_html_(self) -> str:
        title = f"{self.name}: {self.kind}{' of pairs' * self.is_pair}, scored by {', '.join(self.metrics)}"
        return f"<p>{html.escape(title)}</p>{self.to_frame().to_html(escape=True)}"

    @property
    def _validation_sets(self) -> dict[str, Dataset]:
        return {"validation": self.validation, **self.more_validation}

    def _drawn(self, rows: Dataset, n: int | None, seed: int, what: str) -> Dataset:
        if n is None or n == len(rows):
            return rows
        if not isinstance(n, (int, np.integer)) or not 1 <= n <= len(rows):
            raise ValueError(f"{self.name} has {len(rows)} {what} rows; asked for {n!r}")
        classes = np.asarray(values_of(rows, "label")) if self.kind == "classification" else None
        return rows.select(np.sort(drawing_order(len(rows), classes, seed)[:n]))


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
        One of `gdrop_viz.bundled.bundled_tasks()`, such as "sentiment"; the path of a csv, tsv, json, jsonl or parquet
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
        raise TypeError(f"name must be a bundled task, a path or 'glue/...', got {type(name).__name__}")
    if resplit not in (None, "pooled"):
        raise ValueError(f"resplit must be None or 'pooled', got {resplit!r}")
    name = os.fspath(name)
    if not name.startswith("glue/") and (source is not None or revision is not None):
        raise ValueError(f"source= and revision= say where GLUE comes from; they do not fit {name!r}")
    if name in bundled_tasks() or (name.startswith("glue/") and not Path(name).is_file()):
        if (text, text_pair, label, validation, kind) != ("text", None, "label", None, None):
            raise ValueError(f"text=, text_pair=, label=, validation= and kind= are for local files, not for {name!r}")
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
            f"no task {name!r}; bundled: {', '.join(bundled_tasks()) or 'none'}; of GLUE: glue/"
            f"{', glue/'.join(GLUE)}; or the path of a csv, tsv, json, jsonl or parquet file"
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
    separate = isinstance(validation, os.PathLike) or (
        isinstance(validation, str) and validation not in table.column_names
    )
    if separate:
        if not Path(validation).expanduser().is_file():
            has = ", ".join(table.column_names)
            raise FileNotFoundError(f"validation={os.fspath(validation)!r} is no file, nor a column of {name!r}: {has}")
        rows = concatenate_datasets([rows, standard(read_table(validation))])
    labels = values_of(rows, "label")
    kind = kind or kind_of(name, labels)
    classes = sorted(set(labels)) if kind == "classification" else [None]
    if kind == "classification":
        if len(classes) < 2:
            raise ValueError(f"{name!r} has only the label {classes[0]!r}; a classification needs two classes")
        number = {value: i for i, value in enumerate(classes)}
        rows = with_labels(rows, [number[value] for value in labels])
    else:
        rows = with_labels(rows, as_numbers(name, labels))
    if separate:
        splits = {"train": rows.select(range(n_train)), "validation": rows.select(range(n_train, len(rows)))}
    elif isinstance(validation, str):
        splits = split_by_column(name, rows, values_of(table, validation))
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
        raise FileNotFoundError(f"no task {name!r} in GLUE; it has glue/{', glue/'.join(GLUE)}")
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
