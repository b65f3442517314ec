"""Do closed panels free the models and scores that they were given, though Jupyter's `Out` keeps the panels?"""

from __future__ import annotations

import gc
import weakref

import pytest

import gdrop_viz as gv
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.finetuning.conftest import animal_rows


def given() -> tuple:
    """A panel's arguments that nobody else holds."""
    lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
    batches = gv.pretraining_batches(lm, sentences(20), n_sequences=8, batch_size=4, max_length=10, progress=False)
    fisher = gv.fisher_information(lm.model, batches, method="batched", progress=False)
    return lm, batches, fisher


def explore_fisher(lm, batches, fisher, path):
    return gv.FisherExplorer(fisher)


def explore_landscape(lm, batches, fisher, path):
    return gv.LandscapeExplorer(lm, fisher, batches, path=path, points=21, k=0.1)


def explore_words(lm, batches, fisher, path):
    return gv.WordsExplorer(lm, fisher)


def lab(lm, batches, fisher, path):
    task = gv.Task("animals", train=animal_rows(32, seed=0), validation=animal_rows(16, seed=1))
    return gv.DropoutLab(lm, task, fisher, path=path, n_seeds=20, batch_size=8)


@pytest.mark.parametrize(
    ("make", "run"),
    [
        (explore_fisher, False),
        (explore_words, False),
        (explore_landscape, False),
        (explore_landscape, True),
        (lab, True),
    ],
)
def test_model_and_scores_are_free_after_closing(make, run, tmp_path):
    lm, batches, fisher = given()
    panel = make(lm, batches, fisher, tmp_path)
    gone = [weakref.ref(lm.model), weakref.ref(fisher)]
    if run:
        panel.run()
    panel.close()
    if run:
        assert panel.runner.wait(60)
        assert panel.last_error is None
    del lm, batches, fisher
    gc.collect()
    assert [one() for one in gone] == [None, None]
    panel.close()  # a second time does nothing
