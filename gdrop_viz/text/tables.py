"""Tables: local csv, tsv, json, jsonl, parquet and text files as rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.models.hub import FILE_FORMATS, quiet_datasets

if TYPE_CHECKING:
    from datasets import Dataset


def read_table(path: str | os.PathLike[str]) -> Dataset:
    """Read a local csv, tsv, json, jsonl, parquet or txt file (column "text", a row per line) into a `Dataset`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, of another format, or empty or broken.
    """
    from datasets import load_dataset

    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with text, but {str(path)!r} does not exist")
    if path.suffix.lower() not in FILE_FORMATS:
        raise ValueError(f"expected a file ending in {', '.join(FILE_FORMATS)}, got {path.name!r}")
    if path.stat().st_size == 0:
        raise ValueError(f"the file {str(path)!r} is empty; give a file with rows")
    options: dict[str, Any] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    with quiet_datasets():
        try:
            return load_dataset(FILE_FORMATS[path.suffix.lower()], data_files=str(path), split="train", **options)
        except Exception as error:
            cause = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"the file {str(path)!r} could not be read as {path.suffix[1:]}: {cause[:200]}") from error
