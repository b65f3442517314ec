"""Labelled rows: a table's text and label columns, its kind of labels, and its split for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gdrop_viz.base.checks import number

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["classification", "regression"]
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "dev", "valid", "val"), "test": ("test",)}
MOST_CLASSES = 30


def values_of(table: Dataset, column: str) -> list[Any]:
    """Return a whole column at once; iterating over `table[column]` fetches row by row, fifty times slower."""
    return list(table[column][:])


def standard_columns(name: str, table: Dataset, *, text: str, text_pair: str | None, label: str) -> Dataset:
    """Return only the named columns of `table`, called "text", "text_pair" and "label"; raises if a cell is empty."""
    from datasets import Dataset

    chosen = {"text": text} | ({} if text_pair is None else {"text_pair": text_pair}) | {"label": label}
    for new, old in chosen.items():
        if old not in table.column_names:
            raise ValueError(f"expected {new}= as a column of {name!r}: {', '.join(table.column_names)}, got {old!r}")
        gaps = sum(value is None or value != value for value in values_of(table, old))
        if gaps:
            raise ValueError(
                f"expected {old!r} in every row of {name!r}, got {gaps} of {len(table)} without; fill or drop those"
            )
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"expected different columns for {', '.join(chosen)}, got {', '.join(chosen.values())}")
    columns = {new: values_of(table, old) for new, old in chosen.items()}
    return Dataset.from_dict(
        {new: values if new == "label" else [*map(str, values)] for new, values in columns.items()}
    )


def kind_of(name: str, labels: Sequence[Any]) -> Kind:
    """Return "regression" for labels that are not whole numbers or words, else "classification"."""
    if np.asarray(labels).dtype.kind == "f":
        return "regression"
    n = len(set(labels))
    if n > MOST_CLASSES:
        raise ValueError(
            f"expected at most {MOST_CLASSES} classes in {name!r}, got {n} different labels; pass kind='regression' or "
            "kind='classification'"
        )
    return "classification"


def with_labels(rows: Dataset, labels: Sequence[int] | Sequence[float]) -> Dataset:
    """Return `rows` with other labels."""
    return rows.remove_columns("label").add_column("label", list(labels))


def as_numbers(name: str, labels: Sequence[Any]) -> list[float]:
    """Return the labels of a regression as floats; raises if one is no number."""
    try:
        return [float(label) for label in labels]
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers as the labels of {name!r} for a regression, but {error}") from None


def split_by_column(name: str, rows: Dataset, values: Sequence[Any]) -> dict[str, Dataset]:
    """Return the rows whose value is "train", "validation" (or "dev") and "test"."""
    parts = {part: [i for i, value in enumerate(values) if value in names] for part, names in SPLIT_NAMES.items()}
    if not parts["train"] or not parts["validation"]:
        found = ", ".join(sorted(map(repr, set(values)))[:6])
        raise ValueError(f"expected 'train' and 'validation' (and 'test') in the split column of {name!r}, got {found}")
    return {part: rows.select(indices) for part, indices in parts.items() if indices}


def split_by_share(rows: Dataset, share: float, *, stratify: bool, seed: int) -> dict[str, Dataset]:
    """Draw a share of the rows for validation; all rows with the same text go to one side."""
    number(share, "validation as a share (or a column, or a file)", above=0, below=1)
    texts = list(zip(*(values_of(rows, column) for column in rows.column_names if column != "label"), strict=True))
    first: dict[tuple, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    groups = np.fromiter(first.values(), dtype=np.int64)
    classes = np.asarray(values_of(rows, "label"))[groups] if stratify else None
    chosen = set(groups[drawing_order(len(groups), classes, seed)[: round(share * len(groups))]].tolist())
    held_out = np.fromiter((first[text] in chosen for text in texts), dtype=bool)
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"expected validation as a share that leaves rows on both sides, got {share} of {len(groups)} texts"
        )
    return {"train": rows.select(np.flatnonzero(~held_out)), "validation": rows.select(np.flatnonzero(held_out))}


def drawing_order(n: int, classes: np.ndarray | None, seed: int) -> np.ndarray:
    """Return a random order of `n` rows in which every prefix holds the classes in their shares, up to rounding.

    >>> order = drawing_order(8, np.array([0, 0, 0, 0, 0, 0, 1, 1]), seed=0)
    >>> sorted(order.tolist()), int((order[:4] >= 6).sum())
    ([0, 1, 2, 3, 4, 5, 6, 7], 1)
    """
    order = np.random.default_rng(seed).permutation(n)
    if classes is None:
        return order
    place = np.empty(n)
    for value in np.unique(classes):
        members = order[classes[order] == value]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    # stable, so that rows of different classes at the same place stay in random order
    return order[np.argsort(place[order], kind="stable")]
