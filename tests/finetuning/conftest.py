"""A labelled task that the tiny random model learns in a second: does the sentence name an animal?"""

from __future__ import annotations

import gc

import pytest

import gdrop_viz.finetuning.trainer  # noqa: F401  (takes seconds: here, and not within the first test)
from tests.conftest import sentences

ANIMALS = {"cat", "dog", "bird"}

# with these the tiny model reaches all or nearly all of the validation sentences
LEARNING = {"epochs": 4, "learning_rate": 1e-2, "batch_size": 8}


def animal_rows(count: int, seed: int):
    from datasets import Dataset

    texts = sentences(count, seed)
    return Dataset.from_dict({"text": texts, "label": [int(bool(ANIMALS & set(text.split()))) for text in texts]})


@pytest.fixture(autouse=True, scope="session")
def _quick_garbage_collection():
    """The Trainer collects garbage after each training; what the imports made need not be looked through again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def toy_task():
    from gdrop_viz.text.tasks import Task

    return Task("animals", train=animal_rows(96, seed=0), validation=animal_rows(40, seed=1))
