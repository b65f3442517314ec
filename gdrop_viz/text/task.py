"""Labelled tasks: rows, kind of label, and metrics."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import few, number, one_of, whole
from gdrop_viz.text import metrics as _metrics
from gdrop_viz.text.labelled import Kind, drawing_order, values_of
from gdrop_viz.text.tables import as_dataset

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled task: its rows, what kind of label they have, and the metrics.

    Attributes
    ----------
    name
        What tables call it.
    train, validation, test
        `datasets.Dataset` with the columns "text", "text_pair" (for pairs of texts only) and "label"; an
        `IterableDataset`, a DataFrame or a list of dicts is made into one. Labels are 0 ... n_labels - 1, or real
        numbers for a regression. `test` may be None.
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
        one_of(self.kind, known, "kind")
        if self.kind == "regression":
            object.__setattr__(self, "n_labels", 1)
        unknown = [metric for metric in self.metrics if metric not in known[self.kind]]
        if unknown or not self.metrics:
            raise ValueError(
                f"expected metrics of a {self.kind} among {', '.join(known[self.kind])}, got {tuple(self.metrics)}"
            )
        for split in ("train", "validation", "test"):
            if getattr(self, split) is not None:
                object.__setattr__(self, split, as_dataset(getattr(self, split), f"{split} rows"))
        more = {split: as_dataset(rows, f"{split} rows") for split, rows in self.more_validation.items()}
        object.__setattr__(self, "more_validation", more)
        for split, rows in self.splits.items():
            missing = {"text", "label"} - set(rows.column_names)
            if missing:
                raise ValueError(
                    f"expected the columns text and label in the {split} rows of {self.name!r}, got "
                    f"{', '.join(rows.column_names)}"
                )
            if not len(rows):
                raise ValueError(f"expected {split} rows in {self.name!r}, got no {split} rows")
            labels = values_of(rows, "label")
            known_labels = set(range(self.n_labels)) if self.kind == "classification" else None
            wrong = [label for label in labels if not _is_label(label, known_labels)]
            if wrong:
                allowed = f"0 ... {self.n_labels - 1}" if known_labels else "that are finite numbers"
                raise ValueError(f"expected {split} labels {allowed} in {self.name!r}, got {few([*map(repr, wrong)])}")

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
        n = round(number(fraction, "fraction", above=0, most=1) * len(self.train))
        if n < 1:
            raise ValueError(f"expected a fraction that leaves training rows, got {fraction} of {len(self.train)}")
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
            raise ValueError("expected finite predictions, got NaN or infinity; the model has diverged")
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
        n = whole(n, f"the number of {what} rows of {self.name!r}", most=len(rows))
        classes = np.asarray(values_of(rows, "label")) if self.kind == "classification" else None
        return rows.select(np.sort(drawing_order(len(rows), classes, seed)[:n]))


def _is_label(label: Any, classes: set[int] | None) -> bool:
    if not isinstance(label, (int, float, np.number)):
        return False
    return math.isfinite(label) if classes is None else label in classes
