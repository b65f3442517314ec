"""The state after a call that ends well, with an error, or with Ctrl-C, wherever that happens: as before.

A hook on the model's body fails in its n-th forward, for every n until the call gets through. The model is an awkward
one: modules in different modes, frozen parameters, gradients that somebody still needs.
"""

from __future__ import annotations

import itertools
import random
import signal
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gdrop_viz as gv
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.torture.book import Book
from tests.unchanged import differences, snapshot

ERRORS = ("error", "KeyboardInterrupt", "Ctrl-C")


class Injected(RuntimeError):
    """What the hook raises."""


class FailAt:
    """A forward hook that fails once, in the n-th forward: with an error, KeyboardInterrupt, or SIGINT."""

    def __init__(self, n: int, how: str) -> None:
        self.n, self.how, self.calls = n, how, itertools.count()

    def __call__(self, *_: Any) -> None:
        if next(self.calls) != self.n:
            return
        if self.how == "error":
            raise Injected("as asked")
        if self.how == "KeyboardInterrupt":
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)


@cache
def _shared() -> dict[str, Any]:
    import sklearn.metrics  # noqa: F401  (sets a variable of the environment when it is first imported)

    import gdrop_viz.finetuning.trainer  # noqa: F401
    from tests.finetuning.conftest import animal_rows

    lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
    batches = gv.pretraining_batches(lm, sentences(30), n_sequences=6, batch_size=2, max_length=10, progress=False)
    fisher = gv.fisher_information(lm.model, batches, progress=False)
    plane = [gv.random_direction(lm.model, seed=seed) for seed in (0, 1)]
    task = gv.Task("animals", train=animal_rows(16, seed=0), validation=animal_rows(8, seed=1))
    end = random_bert(1)
    return {"end": end, "tokenizer": lm.tokenizer, "batches": batches, "fisher": fisher, "plane": plane, "task": task}


def subject(seed: int = 0) -> nn.Module:
    """The same weights as ever, in a state that a careless call would spoil."""
    model = random_bert()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        module.training = bool(torch.randint(2, (), generator=generator))
    for parameter in model.parameters():
        parameter.requires_grad_(bool(torch.randint(4, (), generator=generator)))
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    return model


def _fisher(model: nn.Module, **settings: Any) -> Any:
    return gv.fisher_information(model, _shared()["batches"], progress=False, **settings)


def _surface(model: nn.Module, **settings: Any) -> Any:
    return gv.loss_surface(model, _shared()["batches"], _shared()["plane"], points=3, progress=False, **settings)


def _with_file(call: Callable[[nn.Module, Path], Any]) -> Callable[[nn.Module], Any]:
    def with_file(model: nn.Module) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return call(model, Path(folder))

    return with_file


def _applied(model: nn.Module) -> None:
    with gv.uniform_dropout(model, 0.3).applied(model):
        gv.measured_dropout(model)


def _gaussian(model: nn.Module) -> None:
    with gv.gaussian_dropout(model, 0.3):
        gv.measured_dropout(model)


def _compare(model: nn.Module, folder: Path) -> Any:
    lm = gv.Pretrained(model, _shared()["tokenizer"], objective="mlm", name="tiny")
    return gv.compare(
        lm, _shared()["task"], {"a": 0.1}, seeds=[0], epochs=1, batch_size=8, learning_rate=1e-3, path=folder,
        progress=False,
    )  # fmt: skip


def _quiet_hessian(function: Callable[..., Any], **settings: Any) -> Callable[[nn.Module], Any]:
    return lambda model: function(model, _shared()["batches"], progress=False, **settings)


def _drawing(outputs: Any, batch: Any) -> torch.Tensor:
    """A loss that draws random numbers of every kind, as a loss of one's own may."""
    torch.rand(1), np.random.rand(), random.random()
    return outputs.logits.float().square().mean((1, 2))


CALLS: dict[str, Callable[[nn.Module], Any]] = {
    "fisher_information": _fisher,
    "fisher_information, tensors": lambda model: _fisher(model, resolution="tensor"),
    "fisher_information, loop": lambda model: _fisher(model, method="loop"),
    "fisher_information, sampled": lambda model: _fisher(model, estimator="sampled", draws=2),
    "fisher_information, checkpoint": _with_file(lambda model, folder: _fisher(model, checkpoint=folder / "c.st")),
    "loss_surface": _surface,
    "loss_surface, file": _with_file(lambda model, folder: _surface(model, path=folder / "s.h5")),
    "loss_surfaces": lambda model: gv.loss_surfaces(
        model, _shared()["batches"], dict(zip("ab", _shared()["plane"], strict=True)), points=3, progress=False
    ),
    "proposed_extent": lambda model: gv.proposed_extent(model, _shared()["batches"], _shared()["plane"][0]),
    "loss_line": lambda model: gv.loss_line(model, _shared()["end"], _shared()["batches"], 3, progress=False),
    "gradient_direction": lambda model: gv.gradient_direction(model, _shared()["batches"]),
    "hessian_spectrum": _quiet_hessian(gv.hessian_spectrum, k=1, max_iterations=1, basis=4),
    "hessian_trace": _quiet_hessian(gv.hessian_trace, n_probes=2),
    "hessian_trace, a loss that draws": _quiet_hessian(gv.hessian_trace, n_probes=2, loss=_drawing),
    "loss_surface, a loss that draws": lambda model: _surface(model, loss=_drawing),
    "sequence_curvature": _quiet_hessian(gv.sequence_curvature, n_probes=1),
    "hessian_density": _quiet_hessian(gv.hessian_density, n_probes=1, n_steps=3),
    "dropout_sites": gv.dropout_sites,
    "measured_dropout": gv.measured_dropout,
    "guided_dropout": lambda model: gv.guided_dropout(model, _shared()["fisher"]),
    "uniform_dropout": gv.uniform_dropout,
    "schedule.apply": lambda model: gv.uniform_dropout(model, 0.3).apply(model),
    "schedule.applied": _applied,
    "gaussian_dropout": _gaussian,
    "compare": _with_file(_compare),
}
# what it does when it succeeds is what it is for
CHANGES = {"schedule.apply"}


def interrupted(name: str, n: int, how: str, seed: int = 0) -> bool:
    """Make a call that fails in its n-th forward; returns False if it got through before.

    Raises AssertionError if anything is left changed.
    """
    _shared()
    model = subject(seed)
    hook = FailAt(n, how)
    handle = model.bert.register_forward_pre_hook(hook)  # copies of the model carry the hook too
    before = snapshot(model)
    failed = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CALLS[name](model)
    except (Injected, ValueError, RuntimeError, KeyboardInterrupt):
        failed = True
    after = snapshot(model)
    handle.remove()
    reached = next(hook.calls) > n
    changed = differences(before, after)
    if name in CHANGES and not failed:
        changed = [what for what in changed if "rates" not in what]
    assert not changed, f"{how} in forward {n} left changed: {', '.join(changed)}"
    return reached


def trial(name: str, how: str, *, most: int = 400) -> dict[str, Any]:
    """One failure in each forward of a call."""
    warnings.simplefilter("ignore")
    for n in range(most):
        if not interrupted(name, n, how, seed=n):
            return {"interrupts": n}
    raise AssertionError(f"more than {most} forwards")


def campaign(book: Book) -> None:
    """Every call, every way to fail, every forward."""
    torch.set_num_threads(1)
    for name in CALLS:
        for how in ERRORS:
            book.do(f"{name}: {how}", lambda name=name, how=how: trial(name, how))
