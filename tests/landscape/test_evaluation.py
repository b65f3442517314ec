"""Are points right inside autocast, and are models refused whose loss is another one each time?"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gdrop_viz.landscape import loss_line, loss_surface, proposed_extent
from gdrop_viz.models.losses import sequence_losses
from gdrop_viz.perturbation import random_direction
from tests.landscape import words


def by_hand(model, batches, direction, coefficient, **settings) -> np.ndarray:
    """A copy that is moved before it is first used, inside an autocast of its own without a cache."""
    moved = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, vector in direction.vectors.items():
            moved.get_parameter(name).add_(vector, alpha=coefficient)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            return torch.cat([sequence_losses(moved, batch, **settings).double() for batch in batches]).numpy()


@pytest.mark.parametrize("kind", ["a language model", "a model of one's own"])
def test_a_surface_inside_autocast(kind, tiny_bert, tiny_batches):
    if kind == "a language model":
        model, batches, settings = tiny_bert, list(tiny_batches), {}
    else:
        model, batches, settings = words.scorer(), words.batches(), {"loss": words.word_losses}
    direction = random_direction(model, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sequence_losses(model, batches[0], **settings)  # the cast weights are in autocast's cache now
        surface = loss_surface(model, batches, direction, points=3, progress=False, **settings)
        after = sequence_losses(model, batches[0], **settings)
    for x, found in zip(surface.x, surface.sequence_losses, strict=True):
        np.testing.assert_array_equal(found, by_hand(model, batches, direction, x, **settings))
    assert np.ptp(surface.loss) > 1e-3
    centre = by_hand(model, batches, direction, 0.0, **settings)[: len(after)]
    np.testing.assert_array_equal(after.double().detach().numpy(), centre)  # and those of the last point are not


class AlwaysDropping(nn.Module):
    """Drops in eval mode too."""

    def __init__(self):
        super().__init__()
        self.inner = words.scorer()

    def forward(self, input):
        return F.dropout(self.inner(input), 0.1)


class Counting(nn.Module):
    """Is another one at each call, without any random number."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = words.scorer(), 0

    def forward(self, input):
        self.calls += 1
        return self.inner(input) * (1 + 0.01 * self.calls)


@pytest.mark.parametrize("kind", [AlwaysDropping, Counting])
def test_a_model_that_gives_another_loss_each_time_is_refused(kind):
    model = kind()
    plane, settings = [random_direction(model, seed=0)], {"loss": words.word_losses}
    match = r"expected the same losses from two runs in eval mode, got a difference of [\d.]+"
    with pytest.raises(ValueError, match=match):
        loss_surface(model, words.batches(), plane, points=3, progress=False, **settings)
    with pytest.raises(ValueError, match=match):
        proposed_extent(model, words.batches(), plane, **settings)
    with pytest.raises(ValueError, match=match):
        loss_line(model, copy.deepcopy(model), words.batches(), progress=False, **settings)


def test_dropout_that_eval_mode_switches_off_is_none_of_these():
    model = nn.Sequential(words.scorer(), nn.Dropout(0.5)).train()
    surface = loss_surface(
        model, words.batches(), [random_direction(model, seed=0)], points=3, progress=False, loss=words.word_losses
    )
    assert np.isfinite(surface.loss).all()
    assert model.training
