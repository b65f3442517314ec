"""Does a surface's file go on only with the computation that wrote it, whichever ingredient has changed?"""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from gdrop_viz.landscape import Surface, loss_surface
from gdrop_viz.perturbation import random_direction
from tests.landscape import words

factor = 1.0


class Scale(nn.Module):
    """A module of the caller's own: its code counts."""

    def forward(self, x):
        return 1.0 * x


class OtherScale(nn.Module):
    def forward(self, x):
        return 1.5 * x


OtherScale.__qualname__, OtherScale.__name__ = Scale.__qualname__, Scale.__name__


class Configured(nn.Module):
    """Reads what it does from a configuration, as transformers' models do."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = words.scorer(), Scale()
        self.config = Config()

    def forward(self, input):
        hidden = self.scale(self.inner(input))
        return hidden if self.config.activation == "none" else hidden.relu()


class Config:
    activation = "none"

    def to_dict(self):
        return {"activation": self.activation}


def weighted(weight):
    def loss(outputs, batch):
        return weight * words.word_losses(outputs, batch)

    return loss


def with_a_global(outputs, batch):
    return factor * words.word_losses(outputs, batch)


def calling(model, batches):
    return words.accuracy(model, batches)


@pytest.fixture
def ask(tmp_path):
    """Computes a surface in the same file each time; `changes` replace one ingredient."""
    model = Configured()
    plane = [random_direction(model, seed=seed) for seed in (0, 1)]

    def compute(change=None, **changes):
        arguments = dict(
            model=model, batches=words.batches(), directions=plane, extent=1.0, points=3, loss=weighted(1.0),
            metrics={"accuracy": calling}, path=tmp_path / "s.h5", progress=False,
        )  # fmt: skip
        if change is not None:
            change(model)
        return loss_surface(**(arguments | changes))

    compute.model, compute.plane = model, plane
    return compute


def nudge(model):
    with torch.no_grad():
        model.inner[1].bias[0] += 1e-6


def other_code(model):
    model.scale = OtherScale()


def other_configuration(model):
    model.config.activation = "relu"


def other_module(model):
    model.inner[2] = nn.GELU()


def other_setting(model):
    model.inner[2] = nn.Tanh()
    model.inner[2].power = 2


def other_words():
    batches = words.batches()
    batches[1]["input"][0, 0] += 1
    return batches


CHANGES = {
    "a bit of a weight": ("model", lambda ask: {"change": nudge}),
    "the code of a module": ("model", lambda ask: {"change": other_code}),
    "the configuration": ("model", lambda ask: {"change": other_configuration}),
    "the kind of a module": ("model", lambda ask: {"change": other_module}),
    "a module's setting": ("model", lambda ask: {"change": other_setting}),
    "a token": ("text", lambda ask: {"batches": other_words()}),
    "the order of batches": ("text", lambda ask: {"batches": words.batches()[::-1]}),
    "fewer batches": ("text", lambda ask: {"batches": words.batches()[:2]}),
    "a direction": ("directions", lambda ask: {"directions": [ask.plane[0], random_direction(ask.model, seed=5)]}),
    "a direction's length": ("directions", lambda ask: {"directions": [ask.plane[0], ask.plane[1].scaled(2.0)]}),
    "the order of directions": ("directions", lambda ask: {"directions": ask.plane[::-1]}),
    "the extent": ("grid", lambda ask: {"extent": 2.0}),
    "the points": ("grid", lambda ask: {"points": 5}),
    "what the loss has in its closure": ("loss", lambda ask: {"loss": weighted(2.0)}),
    "another loss": ("loss", lambda ask: {"loss": words.word_losses}),
    "a lambda": ("loss", lambda ask: {"loss": lambda outputs, batch: words.word_losses(outputs, batch) + 1}),
    "a metric's code": ("metrics", lambda ask: {"metrics": {"accuracy": lambda model, batches: 0.5}}),
    "a metric's name": ("metrics", lambda ask: {"metrics": {"other": calling}}),
    "one metric more": ("metrics", lambda ask: {"metrics": {"accuracy": calling, "b": calling}}),
    "the version": ("version", lambda ask: {"version": "2"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_ingredient_counts(ask, what):
    name, changed = CHANGES[what]
    ask()
    with pytest.raises(ValueError, match=rf"continue the same computation, got a file with other {name}; give another"):
        ask(**changed(ask))


def test_the_same_again_goes_on(ask):
    first = ask()
    seen = []
    assert (ask(on_point=seen.append).loss == first.loss).all()
    assert seen == []


def test_a_global_that_the_loss_reads(ask, monkeypatch):
    ask(loss=with_a_global)
    ask(loss=with_a_global)
    monkeypatch.setitem(globals(), "factor", 2.0)
    with pytest.raises(ValueError, match="with other loss"):
        ask(loss=with_a_global)


def test_a_helper_that_a_metric_calls(ask, monkeypatch):
    ask()
    monkeypatch.setattr(words, "accuracy", lambda model, batches: 0.25)
    with pytest.raises(ValueError, match="with other metrics"):
        ask()


def test_a_function_that_cannot_be_read_needs_a_version(ask, tmp_path):
    lock = threading.Lock()

    def loss(outputs, batch):
        with lock:
            return words.word_losses(outputs, batch)

    with pytest.raises(ValueError, match=r"expected loss= as a function whose code .* got a lock .*; give version="):
        ask(loss=loss)
    with pytest.raises(ValueError, match=r"expected metrics\['m'\] as a function"):
        ask(metrics={"m": lambda model, batches: float(lock.locked())})
    assert not (tmp_path / "s.h5").exists()
    ask(loss=loss, path=None)  # nothing goes on from memory
    first = ask(loss=loss, version="1")
    assert (ask(loss=loss, version="1").loss == first.loss).all()
    with pytest.raises(ValueError, match="with other version"):
        ask(loss=loss, version="2")


def test_files_of_other_computations_are_left_alone(ask, tmp_path):
    ask()
    before = (tmp_path / "s.h5").read_bytes()
    with pytest.raises(ValueError, match=r"give another path, or move that file away"):
        ask(points=5)
    assert (tmp_path / "s.h5").read_bytes() == before
    assert Surface.load(tmp_path / "s.h5").is_complete
