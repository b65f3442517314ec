"""Labelled rows: the columns of text and label in a table, what the labels are, and the split for validation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gdrop_viz.base.checks import number
from gdrop_viz.text.delimited import is_number
from gdrop_viz.text.tables import SPLIT_NAMES, split_of

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["classification", "regression"]
MOST_CLASSES = 30
_CODE = re.compile(r"[+-]?0\d")  # "01" is a code, and no number
_COMMA = re.compile(r"[+-]?\d+,\d+")
# the usual names, the likelier ones first; as in GLUE's own files and on the hub, whatever the case
_TEXTS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 string", "#2 string"),
    ("sentence_a", "sentence_b"),
    *((name, None) for name in ("text", "sentence", "review", "content")),
)
_LABELS = ("label", "labels", "gold_label", "quality", "is_duplicate", "score", "class", "target")


def values_of(table: Dataset, column: str) -> list[Any]:
    """Return a whole column at once; iterating over `table[column]` fetches row by row, fifty times slower."""
    return list(table[column][:])


# --- columns ----------------------------------------------------------------------------------------------------------


def columns_of(
    name: str, table: Dataset, *, text: str | int | None, text_pair: str | int | None, label: str | int | None
) -> dict[str, str]:
    """Return which columns are "text", "text_pair" (if there is one) and "label"; what is None goes by usual names.

    Raises
    ------
    ValueError
        If a column is missing, or none has a usual name.
    """
    given = {"text": text, "text_pair": text_pair, "label": label}
    chosen = {new: str(old) for new, old in given.items() if old is not None}
    if text is None and label is None and _is_cola(table):
        chosen |= {"text": "3", "label": "1"}
    plain = {column.lower(): column for column in table.column_names}
    if "text" not in chosen:
        pairs = [(first, second) for first, second in _TEXTS if first in plain and (second is None or second in plain)]
        if pairs:
            first, second = pairs[0]
            chosen["text"] = plain[first]
            if second is not None:
                chosen.setdefault("text_pair", plain[second])
    if "label" not in chosen:
        usual = [plain[column] for column in _LABELS if column in plain]
        chosen |= {"label": usual[0]} if usual else {}
    for new in ("text", *(["text_pair"] if "text_pair" in chosen else []), "label"):
        if chosen.get(new) not in table.column_names:
            got = repr(chosen[new]) if new in chosen else "no usual name"
            raise ValueError(f"expected {new}= as a column of {name!r}: {_described(table)}, got {got}")
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"expected different columns for {', '.join(chosen)}, got {', '.join(chosen.values())}")
    return {new: chosen[new] for new in ("text", "text_pair", "label") if new in chosen}


def _described(table: Dataset) -> str:
    """The columns by name; of a file without a header, by number and first cell."""
    if table.column_names != [str(i) for i in range(len(table.column_names))]:
        return ", ".join(table.column_names)
    return ", ".join(f"{column} ({str(value)[:20]!r})" for column, value in table[0].items()) + " (it has no header)"


def _is_cola(table: Dataset) -> bool:
    """Whether this is CoLA as its authors give it: no header; source, 0 or 1, "*" or nothing, sentence."""
    if table.column_names != ["0", "1", "2", "3"]:
        return False
    return set(values_of(table, "1")) <= {0, 1} and set(values_of(table, "2")) <= {"*", None}


def standard_columns(name: str, table: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Return the columns of `table` under their new names, texts as str.

    Raises
    ------
    ValueError
        If a column or a text is missing.
    """
    from datasets import Dataset

    found = {}
    for new, old in columns.items():
        if old not in table.column_names:
            raise ValueError(f"expected {new}= as a column of {name!r} in each split: {_described(table)}, got {old!r}")
        values = values_of(table, old)
        wrong = next((value for value in values if isinstance(value, (list, dict, bytes, np.ndarray))), None)
        if wrong is not None:
            raise ValueError(
                f"expected one {'label' if new == 'label' else 'text'} in each cell of {old!r} of {name!r}, got "
                f"{type(wrong).__name__}; join or choose"
            )
        if new != "label":
            _require(name, old, values)
            values = [str(value) for value in values]
        found[new] = values
    return Dataset.from_dict(found)


def class_names(table: Dataset, column: str) -> tuple[str, ...]:
    """Return what a data set of the hub calls the classes 0, 1, ... of a column, if it does."""
    return tuple(getattr(table.features.get(column), "names", None) or ())


def _require(name: str, column: str, values: Sequence[Any]) -> None:
    gaps = sum(_is_missing(value) for value in values)
    if gaps:
        raise ValueError(
            f"expected {column!r} in every row of {name!r}, got {gaps} of {len(values)} without; fill or drop those"
        )


def _is_missing(value: Any) -> bool:
    return value is None or value != value or value == ""


# --- labels -----------------------------------------------------------------------------------------------------------


def typed(labels: Sequence[Any]) -> list[Any]:
    """Return numbers for labels that are numbers or are written so, whole ones as int; words stay, gaps are None.

    >>> typed(["0.0", "1.0"]), typed(["4.5", "3.00"]), typed(["01", "NA"]), typed([True, None])
    ([0, 1], [4.5, 3.0], ['01', 'NA'], [True, None])
    """
    values = [label.strip() if isinstance(label, str) else label for label in labels]  # "yes " is "yes"
    values = [None if _is_missing(value) else value for value in values]
    present = [value for value in values if value is not None]
    as_text = [str(value) for value in present if not isinstance(value, (bool, np.bool_))]
    if len(as_text) < len(present) or not all(map(is_number, as_text)):
        return values
    if any(_CODE.match(text) for text in as_text):
        return values
    numbers = [None if value is None else float(value) for value in values]
    whole = all(number.is_integer() for number in numbers if number is not None)
    return [None if number is None else int(number) if whole else number for number in numbers]


def kind_of(name: str, labels: Sequence[Any]) -> Kind:
    """Return "regression" for labels that are not whole numbers or words, else "classification"."""
    if any(isinstance(label, float) for label in labels):
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
    from datasets import Dataset

    texts = {column: values_of(rows, column) for column in rows.column_names if column != "label"}
    return Dataset.from_dict({**texts, "label": list(labels)})


def labelled(
    name: str, parts: Mapping[str, Dataset], kind: Kind | None, column: str, names: Sequence[str]
) -> tuple[dict[str, Dataset], Kind, tuple[str, ...]]:
    """Return the parts with their labels as a `Task` has them, the kind, and what the classes are called.

    `column` is what messages call the labels.

    Classes are numbered in the order of `names`, or else of their numbers or the alphabet. A test part without labels
    (none at all, or -1 throughout, as in GLUE) is left out.

    Raises
    ------
    ValueError
        If labels are missing, there is one class only, or a label of a regression is no number.
    """
    every = typed([label for rows in parts.values() for label in values_of(rows, "label")])
    ends = np.cumsum([len(rows) for rows in parts.values()]).tolist()
    labels = {part: every[end - len(parts[part]) : end] for part, end in zip(parts, ends, strict=True)}
    given = {label for part, values in labels.items() if part != "test" for label in values}
    if "test" in labels and set(labels["test"]) in ({None}, {-1} - given):
        del labels["test"]
    for values in labels.values():
        _require(name, column, values)
    every = [label for values in labels.values() for label in values]
    if all(isinstance(label, str) and _COMMA.fullmatch(label) for label in every):
        raise ValueError(f"expected labels of {name!r} with decimal points, got {every[0]!r}; replace the commas")
    kind = kind or kind_of(name, every)
    if kind == "regression":
        rows = {part: with_labels(parts[part], _as_numbers(name, values)) for part, values in labels.items()}
        return rows, kind, ()
    classes = list(range(len(names))) if names else sorted(set(every))
    if len(classes) < 2:
        raise ValueError(f"expected two classes or more in {name!r}, got only the label {classes[0]!r}")
    if -1 in every and (names or classes[-1] not in (0, 1)):
        raise ValueError(
            f"expected a label in every row of {name!r}, got {every.count(-1)} of -1, the usual mark of a missing one; "
            "drop those rows"
        )
    code = {value: i for i, value in enumerate(classes)}
    rows = {part: with_labels(parts[part], [code[label] for label in values]) for part, values in labels.items()}
    return rows, kind, tuple(names) or tuple(map(str, classes))


def _as_numbers(name: str, labels: Sequence[Any]) -> list[float]:
    try:
        return [float(label) for label in labels]
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers as the labels of {name!r} for a regression, but {error}") from None


# --- splits -----------------------------------------------------------------------------------------------------------


def split_by_column(name: str, rows: Dataset, values: Sequence[Any]) -> dict[str, Dataset]:
    """Return the rows whose value is "train", "validation" (or "dev") and "test", in whatever case.

    Raises
    ------
    ValueError
        If there is another value, or none for training or for validation.
    """
    meant = [split_of(value) for value in values]
    parts = {part: [i for i, split in enumerate(meant) if split == part] for part in SPLIT_NAMES}
    if None in meant or not parts["train"] or not parts["validation"]:
        found = ", ".join(sorted({repr(value) for value in values})[:6])
        raise ValueError(
            f"expected 'train' and 'validation' (and 'test') in the split column of {name!r}, got {found}; rename or "
            "drop the others"
        )
    return {part: rows.select(indices) for part, indices in parts.items() if indices}


def split_by_share(rows: Dataset, share: object, *, stratify: bool, seed: int) -> dict[str, Dataset]:
    """Draw a share of the rows for validation; all rows with the same text go to one side."""
    share = number(share, "validation as a share (or a column, or a file)", above=0, below=1)
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
