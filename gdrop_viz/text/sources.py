"""Texts of a corpus: from a list, a file, a data set of the hub, or the bundled corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gdrop_viz.models.bundled import data_folder
from gdrop_viz.models.checksums import verify
from gdrop_viz.models.hub import hub_dataset, looks_like_path
from gdrop_viz.text.delimited import is_number
from gdrop_viz.text.tables import read_table


def texts_of(
    texts: Any, column: str | None, config: str | None, split: str, revision: str | None = None
) -> Sequence[str]:
    """Return the texts with random access; a data set is not read until its rows are asked for.

    The arguments are those of `pretraining_batches`.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, RuntimeError
        In one line, if the source is none, empty, cannot be read, or has several columns that may be meant.
    """
    if texts is None:
        return _bundled_corpus()
    if isinstance(texts, (str, os.PathLike)):
        name = os.fspath(texts)
        if "\n" in name or len(name) > 255:
            raise ValueError(
                "expected texts as a path, a data set id or a list of str, got one long str; put it into a list: [text]"
            )
        if looks_like_path(name):
            table = read_table(name)
        else:
            splits = hub_dataset(name, config=config, revision=revision, instead="texts=None takes the bundled corpus")
            if split not in splits:
                raise ValueError(f"expected split= among those of {name!r}: {', '.join(splits)}, got {split!r}")
            table = splits[split]
        return table[_text_column(table, column, name)]
    if isinstance(texts, Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
        raise TypeError("expected texts as an iterable of str, got a whole table; give its column, dataset['text']")
    if not isinstance(texts, Iterable):
        raise TypeError(
            f"expected texts as None, an iterable of str, a path or a data set id, got {type(texts).__name__}"
        )
    texts = list(texts)
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"expected texts that hold str only, got {type(wrong).__name__}")
    if not any(text.strip() for text in texts):
        raise ValueError("expected at least one text, but texts is empty")
    return texts


def _bundled_corpus() -> list[str]:
    folder = data_folder() / "corpus"
    verify(folder)
    paragraphs = [
        line
        for path in sorted(folder.glob("*heldout*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    if not paragraphs:
        raise FileNotFoundError(f"no bundled corpus (*heldout*.txt) in {folder}; pass texts=, such as a list of str")
    return paragraphs


def _holds_numbers(cells: Sequence[str | None]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(map(is_number, filled))


def _text_column(table: Any, column: str | None, name: str) -> str:
    """Return the column to read: the one asked for, "text", or the only one that holds text."""
    strings = [
        key
        for key, kind in table.features.items()
        if getattr(kind, "dtype", "") in ("string", "large_string") and not _holds_numbers(table[key][:100])
    ]
    if column is None and "text" in strings:
        return "text"
    if column is None and len(strings) == 1:
        return strings[0]
    if column is None or column not in strings:
        found = "none" if column is None else repr(column)
        choices = ", ".join(strings) or "(none holds text)"
        raise ValueError(f"expected column= as one of {name!r} that holds text, {choices}, got {found}")
    return column
