"""Delimited text: csv, tsv and their kin as columns, nothing in a cell reinterpreted."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

Cell = str | int | float | None
SEPARATORS = (",", "\t", ";", "|")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_delimited(
    path: Path, *, separator: str | None = None, header: bool | None = None, encoding: str | None = None
) -> dict[str, list[Cell]]:
    """Return the columns of a delimited text file by name.

    What is not given is found by looking: the separator is the first that gives every row equally many cells; quotes
    count as in csv unless each line is a row as it stands and quotes would join lines (GLUE's files hold lone ones);
    a first row is no header if one of its cells is a number or comes again in its column, and the columns are then
    called "0", "1", .... A cell is a number only if that number would be written just so ("01000" and "1.50" are
    text); an empty cell is None; everything else, "NA" and "null" too, is text.

    Raises
    ------
    ValueError
        In one line, if the file is no text, or its rows differ in their number of cells.
    """
    text = path.read_bytes().decode(encoding_of(path, encoding))
    lines = [line.rstrip("\r\n") for line in io.StringIO(text, newline="")]
    while lines and not lines[0]:
        del lines[0]
    if not lines:
        raise ValueError(f"expected rows in {str(path)!r}, got an empty file")
    rows = _rows(path, lines, separator)
    if header is None:
        header = _is_header(rows)
    names = _distinct(rows[0] if header else [""] * len(rows[0]))
    cells = zip(*rows[1:] if header else rows, strict=True)
    columns = dict(zip(names, map(_values, cells), strict=False))
    if not columns:
        raise ValueError(f"expected rows in {str(path)!r}, got a header only; pass header=False if it is none")
    return columns


def is_number(cell: str) -> bool:
    """Whether a cell is written as a decimal number.

    >>> [is_number(cell) for cell in ("1", "-0.5", "1e-3", "nan", "1,5", "")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(cell.strip()) is not None


def encoding_of(path: Path, encoding: str | None = None) -> str:
    """Return how to decode a file: as told, by its byte order mark, as UTF-8, or with a warning as Western European.

    Raises
    ------
    ValueError
        If the file is no text, or not in the encoding that is told.
    """
    with path.open("rb") as file:
        start = file.read(1 << 16)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if encoding is None and marked is None and b"\0" in start:
        raise ValueError(f"expected text in {str(path)!r}, got bytes of zero; pass encoding= if it is text after all")
    told = encoding or marked
    errors = {}
    for candidate in [told] if told else ["utf-8", "cp1252", "latin-1"]:
        try:
            with path.open(encoding=candidate) as file:
                while file.read(1 << 20):
                    pass
        except LookupError:
            raise ValueError(f"expected encoding= as one that Python knows, got {encoding!r}") from None
        except UnicodeError as error:
            errors[candidate] = " ".join(str(error).split())
            continue
        if errors:
            warnings.warn(
                f"{path.name!r} is not UTF-8; it is read as {candidate} (Western European): pass encoding= if it is "
                "another",
                stacklevel=2,
            )
        return candidate
    raise ValueError(f"expected {told} text in {str(path)!r}, got {errors[str(told)]}; pass another encoding=")


def _rows(path: Path, lines: Sequence[str], separator: str | None) -> list[list[str]]:
    """Split the lines at the separator, or at the first that gives each row equally many cells, at least two."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    others = [other for other in SEPARATORS if other != usual]
    errors = []
    for candidate in [separator] if separator else [usual, *(other for other in others if other in lines[0])]:
        try:
            rows = _split(lines, candidate)
        except ValueError as error:
            errors.append(error)
            continue
        if separator or len(rows[0]) > 1:
            return rows
    if errors:
        raise ValueError(f"expected a table in {str(path)!r}, but {errors[0]}; mend that row, or pass separator=")
    return _split(lines, separator or usual)


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    rows = [line.split(separator) for line in lines if line]
    # if each line is a whole row as it stands, none is part of a quoted cell
    whole = len(rows[0]) > 1 and _uneven(rows) is None
    if any('"' in line for line in lines):
        quoted = _quoted(lines, separator)
        if isinstance(quoted, list) and not (whole and (len(quoted) < len(rows) or _uneven(quoted) is not None)):
            rows = quoted
        elif not whole:
            raise ValueError(str(quoted))
    if (uneven := _uneven(rows)) is not None:
        raise ValueError(f"row {uneven + 1} has {len(rows[uneven])} cells where row 1 has {len(rows[0])}")
    return rows


def _uneven(rows: Sequence[Sequence[str]]) -> int | None:
    """The first row that has not as many cells as the first."""
    return next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)


def _quoted(lines: Sequence[str], separator: str) -> list[list[str]] | csv.Error:
    """Return the rows in csv's way with quotes, or why there is none; a quote in a cell is doubled or escaped by \\."""
    limit = csv.field_size_limit(sys.maxsize)
    error: csv.Error | None = None
    try:
        for escape in (None, "\\"):
            reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True, escapechar=escape)
            try:
                return [row for row in reader if row]
            except csv.Error as caught:
                error = error or csv.Error(f"{caught}, line {reader.line_num}")
    finally:
        csv.field_size_limit(limit)
    assert error is not None
    return error


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    columns = list(zip(*rows, strict=True))
    return not any(is_number(first) or (first and first in rest) for first, *rest in columns)


def _distinct(names: Sequence[str]) -> list[str]:
    """Strip the names; one that is empty is called by its number, and one that comes again "name.1"."""
    found: list[str] = []
    for i, name in enumerate(names):
        stripped = name.strip() or str(i)
        found.append(stripped if stripped not in found else f"{stripped}.{found.count(stripped)}")
    return found


def _values(cells: Sequence[str]) -> list[Cell]:
    filled = [cell for cell in cells if cell]
    for kind in (int, float):
        if filled and all(is_number(cell) for cell in filled) and all(_just_so(cell, kind) for cell in filled):
            return [kind(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _just_so(cell: str, kind: type[int] | type[float]) -> bool:
    try:
        return str(kind(cell)) == cell
    except ValueError:
        return False
