"""The whole walk, from weights to a comparison, on every model that comes with the package."""

from __future__ import annotations

import numpy as np
import pytest

import gdrop_viz as gv
from gdrop_viz.models.bundled import bundled_models


@pytest.fixture(scope="module", params=bundled_models())
def walk(request):
    lm = gv.load_pretrained(request.param)
    batches = gv.pretraining_batches(lm, n_sequences=16, batch_size=8, max_length=48, progress=False)
    return lm, batches, gv.fisher_information(lm.model, batches, progress=False)


def test_every_parameter_has_a_finite_score(walk):
    lm, _, fisher = walk
    assert set(fisher.means.index) == {name for name, _ in lm.model.named_parameters()}
    assert np.isfinite(fisher.means).all()
    assert (fisher.means >= 0).all()


def test_information_is_concentrated(walk):
    _, _, fisher = walk
    # spread evenly, the top 1 % would hold 1 %; with 16 sequences a claim of ten times that is modest
    assert gv.top_k(fisher, 0.01).summary()["share_of_fisher"] > 0.1


def test_the_trained_weights_lie_in_a_basin(walk):
    lm, batches, fisher = walk
    direction = gv.random_direction(lm.model, seed=0, selection=gv.top_k(fisher, 0.01), move_vectors=True)
    surface = gv.loss_surface(lm.model, batches[:1], [direction], extent=2.0, points=3, progress=False)
    assert np.isfinite(surface.loss).all()
    assert surface.loss[1] < min(surface.loss[0], surface.loss[2])


def test_guided_dropout_is_really_used_and_fine_tunes(walk):
    lm, _, fisher = walk
    guided = gv.guided_dropout(lm.model, fisher)
    with guided.applied(lm.model):
        measured = gv.measured_dropout(lm.model)
    assert {site: measured[site] for site in guided.rates} == pytest.approx(guided.rates)
    assert max(guided.rates.values()) == pytest.approx(0.1)
    task = gv.load_task("sentiment").subset(n_train=48, n_validation=32)
    arms = {"guided": guided, "standard": 0.1}
    result = gv.compare(lm, task, arms, seeds=[0], epochs=1, max_length=32, progress=False)
    losses = result.runs.query("split == 'train' and metric == 'loss'")["value"]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
