"""Tables: rows from local files, folders and objects in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import few
from gdrop_viz.models.hub import FILE_FORMATS, quiet_datasets
from gdrop_viz.text.delimited import encoding_of, read_delimited

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "eval", "evaluation", "trial"),
    "test": ("test", "testing"),
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def split_of(word: object) -> str | None:
    """Return which split a word means, in whatever case: "train", "validation", "test", or None.

    >>> split_of("TRAIN"), split_of("dev"), split_of("extra")
    ('train', 'validation', None)
    """
    word = str(word).strip().lower()
    return next((split for split, names in SPLIT_NAMES.items() if word in names), None)


def read_table(path: str | os.PathLike[str], *, lines: bool = True, **layout: Any) -> Dataset:
    """Read a local csv, tsv, json, jsonl, parquet or txt file into a `Dataset`.

    A txt file gives the column "text" with a row per line, or, without `lines`, is read as delimited text. `layout` is
    what `read_delimited` need not find out by itself.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, of another format, or empty or broken.
    """
    from datasets import Dataset, load_dataset

    path = Path(path).expanduser()
    kind = FILE_FORMATS.get(path.suffix.lower())
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with text, but {str(path)!r} does not exist")
    if kind is None:
        raise ValueError(f"expected a file ending in {', '.join(FILE_FORMATS)}, got {path.name!r}")
    if path.stat().st_size == 0:
        raise ValueError(f"expected rows in {str(path)!r}, but it is empty")
    if kind == "csv" or (kind == "text" and not lines):
        return Dataset.from_dict(read_delimited(path, **layout))
    given = {name: value for name, value in layout.items() if value is not None}
    if given.keys() - {"encoding"} or (given and kind == "parquet"):
        raise ValueError(
            f"expected a csv, tsv or txt file with {', '.join(f'{name}=' for name in given)}, got {path.name!r}"
        )
    if kind != "parquet":
        given = {"encoding": encoding_of(path, layout.get("encoding"))}
    with quiet_datasets():
        try:
            return load_dataset(kind, data_files=str(path), split="train", **given)
        except Exception as error:
            cause = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"the file {str(path)!r} could not be read as {path.suffix[1:]}: {cause[:200]}") from error


def read_folder(folder: Path, **layout: Any) -> dict[str, Dataset]:
    """Read the files of a folder that are named by splits, such as train.tsv, dev_matched.tsv, SICK_test.txt.

    Several validation files give "validation" and "validation_<what tells them apart>", as MNLI's; the parts of one
    split in the hub's layout (train-00000-of-00002.parquet) are put together.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no training file, or a split has several that may be meant.
    """
    from datasets import concatenate_datasets

    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        words = re.split(r"[^A-Za-z0-9]+", _SHARD.sub("", path.stem))
        split = next(filter(None, map(split_of, words)), None)
        if split is not None and path.suffix.lower() in FILE_FORMATS:
            rest = "_".join(word for word in words if split_of(word) is None)
            found.setdefault((split, rest), []).append(path)
    splits: dict[str, Dataset] = {}
    for (split, rest), paths in found.items():
        name = f"{split}_{rest}" if split == "validation" and split in splits else split
        sharded = all(_SHARD.search(path.stem) for path in paths)
        if name in splits or (len(paths) > 1 and not sharded):
            names = [path.name for (other, _), group in found.items() if other == split for path in group]
            raise ValueError(f"expected one {split} file in {folder}, got {few(names)}; give the path of one file")
        splits[name] = concatenate_datasets([read_table(path, lines=False, **layout) for path in paths])
    if "train" not in splits:
        raise FileNotFoundError(
            f"expected files named by splits in {folder}, such as train.tsv and dev.tsv, got "
            f"{few(sorted(path.name for path in folder.iterdir())) or 'none'}; give the path of one file"
        )
    return splits


def as_dataset(rows: Any, what: str) -> Dataset:
    """Return rows as a `Dataset` of plain values: from a data set in any format, a DataFrame, or a list of dicts.

    Raises
    ------
    TypeError
        For anything else; `what` is called by its name.

    >>> as_dataset([{"text": "a", "label": 1}, {"text": "b"}], "rows")["label"][:]
    [1, None]
    """
    from datasets import Dataset, IterableDataset

    if isinstance(rows, Dataset):
        return rows if rows.format["type"] is None else rows.with_format(None)
    if isinstance(rows, IterableDataset):
        return Dataset.from_list(list(rows.with_format(None)), features=rows.features)
    columns: Any = None
    if not hasattr(rows, "notna") and hasattr(rows, "to_pandas"):  # of polars or Arrow
        rows = rows.to_pandas()
    if hasattr(rows, "notna") and hasattr(rows, "columns"):  # a DataFrame
        present = rows.notna()
        columns = {str(name): rows[name].astype(object).where(present[name], None).tolist() for name in rows.columns}
    elif isinstance(rows, Mapping) and all(isinstance(column, (Sequence, np.ndarray)) for column in rows.values()):
        columns = dict(rows)
    elif isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, Mapping)):
        listed = list(rows)
        if listed and all(isinstance(row, Mapping) for row in listed):
            columns = {name: [row.get(name) for row in listed] for name in {name: 0 for row in listed for name in row}}
    if not columns:
        raise TypeError(f"expected {what} as a Dataset, a DataFrame or a list of dicts, got {type(rows).__name__}")
    try:
        return Dataset.from_dict(columns)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:160]
        raise ValueError(f"expected {what} with values of one type in each column, but {why}") from None
