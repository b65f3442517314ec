"""GLUE (Wang et al. 2019): columns, labels, splits and metrics of its nine tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gdrop_viz.models.hub import FILE_FORMATS, hub_dataset, quiet_datasets
from gdrop_viz.text.labelled import Kind

if TYPE_CHECKING:
    from datasets import Dataset

HUB_ID = "nyu-mll/glue"


class GlueTask(NamedTuple):
    """The columns of one task's text (and second text), its number of classes (1: regression), metrics and splits."""

    text: str
    text_pair: str | None
    n_labels: int
    metrics: tuple[str, ...]
    validation: tuple[str, ...] = ("validation",)

    @property
    def kind(self) -> Kind:
        """What its labels are."""
        return "regression" if self.n_labels == 1 else "classification"


GLUE = {
    "cola": GlueTask("sentence", None, 2, ("matthews",)),
    "sst2": GlueTask("sentence", None, 2, ("accuracy",)),
    "mrpc": GlueTask("sentence1", "sentence2", 2, ("accuracy", "f1")),
    "qqp": GlueTask("question1", "question2", 2, ("accuracy", "f1")),
    "stsb": GlueTask("sentence1", "sentence2", 1, ("pearson", "spearman")),
    "mnli": GlueTask("premise", "hypothesis", 3, ("accuracy",), ("validation_matched", "validation_mismatched")),
    "qnli": GlueTask("question", "sentence", 2, ("accuracy",)),
    "rte": GlueTask("sentence1", "sentence2", 2, ("accuracy",)),
    "wnli": GlueTask("sentence1", "sentence2", 2, ("accuracy",)),
}


def glue_splits(
    config: str, *, source: str | os.PathLike[str] | None = None, revision: str | None = None
) -> Mapping[str, Dataset]:
    """Return the labelled splits of a GLUE task; the test sets of GLUE have no labels and are left out.

    `source` is a hub id, by default "nyu-mll/glue", or a local folder in its layout:
    `FOLDER/rte/train-00000-of-00001.parquet`, also with csv or jsonl files.
    """
    wanted = ("train", *GLUE[config].validation)
    folder = None if source is None else Path(source).expanduser()
    if folder is not None and folder.is_dir():
        splits = {split: _read_split(folder / config, split) for split in wanted}
    else:
        splits = hub_dataset(
            str(source or HUB_ID), config=config, revision=revision, instead="pass source=, a local copy"
        )
    missing = [split for split in wanted if split not in splits]
    if missing:
        raise ValueError(f"expected GLUE's {config!r} with the splits {', '.join(wanted)}, got no {', '.join(missing)}")
    return {split: splits[split] for split in wanted}


def _read_split(folder: Path, split: str) -> Dataset:
    from datasets import load_dataset

    files = sorted(path for path in folder.glob(f"{split}[-.]*") if path.suffix in FILE_FORMATS)
    if not files:
        raise FileNotFoundError(f"expected {folder}/{split}-00000-of-00001.parquet (or csv, jsonl), but found none")
    with quiet_datasets():
        return load_dataset(FILE_FORMATS[files[0].suffix], data_files=[str(path) for path in files], split="train")
