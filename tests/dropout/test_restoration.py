"""Restoration: the model is as before after every public call, whenever and however the call fails."""

from __future__ import annotations

import warnings

import pytest
from torch import nn

from gdrop_viz import dropout_sites, gaussian_dropout, guided_dropout, measured_dropout, uniform_dropout
from tests.dropout.stand_ins import made_up_fisher
from tests.unchanged import differences, snapshot
from tests.zoo import build


class Failure:
    """A forward hook that raises in the n-th forward of the module."""

    def __init__(self, error: type[BaseException], n: int) -> None:
        self.error = error
        self.left = n

    def __call__(self, *_) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error("stopped")


def apply(model: nn.Module) -> None:
    uniform_dropout(model, 0.3).apply(model)


def applied(model: nn.Module) -> None:
    with uniform_dropout(model, 0.3).applied(model):
        measured_dropout(model)


def noisy(model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with gaussian_dropout(model, 0.3):
            measured_dropout(model)


CALLS = {
    "dropout_sites": (dropout_sites, 2),
    "measured_dropout": (measured_dropout, 2),
    "uniform_dropout": (uniform_dropout, 2),
    "guided_dropout": (lambda model: guided_dropout(model, made_up_fisher(model)), 2),
    "apply": (apply, 5),
    "applied": (applied, 7),
    "gaussian_dropout": (noisy, 10),
}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("frozen", ["bert.encoder.layer.1", "transformer.h.1"])
@pytest.mark.parametrize("name", CALLS)
def test_interrupted_at_every_forward(name, frozen, error):
    call, forwards = CALLS[name]
    model = build("Bert" if frozen.startswith("bert") else "Falcon").model
    model.get_submodule(frozen).train()  # modes differ inside the model
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    before = snapshot(model)
    # a failing forward comes back as the ValueError that names it; an interrupt comes through
    expected = ValueError if error is RuntimeError else KeyboardInterrupt
    for n in range(forwards):
        handle = last.register_forward_hook(Failure(error, n))
        with pytest.raises(expected):
            call(model)
        handle.remove()
        assert differences(before, snapshot(model)) == []
    handle = last.register_forward_hook(Failure(error, forwards))
    call(model)  # every forward gets through
    handle.remove()
    if name != "apply":
        assert differences(before, snapshot(model)) == []
