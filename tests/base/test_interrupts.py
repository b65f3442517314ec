"""Does Ctrl-C end every long calculation after the unit in hand, keep what is done, and give the handler back?"""

from __future__ import annotations

import itertools
import signal
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.saved import load_tensors
from gdrop_viz.curvature import Hessian
from gdrop_viz.fisher import checkpoint
from gdrop_viz.fisher.run import Run
from gdrop_viz.landscape.growing import GrowingSurface
from gdrop_viz.text import batches as corpora
from tests.conftest import sentences


class PressAt:
    """A forward pre-hook that presses Ctrl-C in the n-th forward, and `more` times again in the same one."""

    def __init__(self, n: int, more: int = 0) -> None:
        self.left, self.more = n, more

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            for _ in range(1 + self.more):
                signal.raise_signal(signal.SIGINT)


def pressing_at(n: int, function: Callable) -> Callable:
    """`function` with Ctrl-C pressed in its n-th call."""
    left = itertools.count(1)

    def pressing(*arguments: object, **settings: object) -> object:
        if next(left) == n:
            signal.raise_signal(signal.SIGINT)
        return function(*arguments, **settings)

    return pressing


# call -> how many forwards are a unit (a batch, a probe or product over all three, a sequence), the call, its units
CALLS = {
    "Fisher": (1, lambda m, b: gv.fisher_information(m, b, method="batched", progress=False), lambda f: f.history),
    "trace": (3, lambda m, b: gv.hessian_trace(m, b, 9, progress=False), lambda t: t.samples),
    "density": (9, lambda m, b: gv.hessian_density(m, b, n_probes=9, n_steps=3, progress=False), lambda d: d.nodes),
    "curvature": (1, lambda m, b: gv.sequence_curvature(m, b, 1, progress=False), lambda c: c.scores),
    "spectrum": (3, lambda m, b: gv.hessian_spectrum(m, b, 2, progress=False), lambda s: s.eigenvalues),
}


@pytest.fixture
def pressed(tiny_bert, tiny_batches):
    """The model, with Ctrl-C pressed in its n-th forward; not in those that look for its head once."""
    gv.sequence_losses(tiny_bert, tiny_batches[0])

    def at(n: int, more: int = 0):
        tiny_bert.bert.register_forward_pre_hook(PressAt(n, more))
        return tiny_bert

    return at


def forwards_before_work(model, batches) -> int:
    """How many forwards hold a Hessian's product against differences, once per operator."""
    calls = []
    hook = model.bert.register_forward_pre_hook(lambda *_: calls.append(1))
    with Hessian(model, batches):
        hook.remove()
    return len(calls)


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_keeps_what_is_done(pressed, tiny_batches, name):
    forwards, call, units = CALLS[name]
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = units(call(pressed(-1), tiny_batches))
        # the first forward of Fisher's tries whether gradients can be followed
        before = 1 if name == "Fisher" else forwards_before_work(pressed(-1), tiny_batches)
        # in the last forward of the second unit
        kept = units(call(pressed(before + 2 * forwards), tiny_batches))
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(kept) == (8 if name == "Fisher" else 2)  # sequences of two batches; else units
    if name != "spectrum":  # its pairs are only as good as two products are
        assert (np.asarray(kept) == np.asarray(whole)[: len(kept)]).all()


@pytest.mark.parametrize("name", CALLS)
def test_a_second_ctrl_c_does_not_wait(pressed, tiny_batches, name):
    handler = signal.getsignal(signal.SIGINT)
    model = pressed(2, more=1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(KeyboardInterrupt):
        CALLS[name][1](model, tiny_batches)
    assert signal.getsignal(signal.SIGINT) is handler
    assert all(torch.equal(p, before[n]) and p.requires_grad for n, p in model.named_parameters())


def test_ctrl_c_before_the_first_batch_gives_no_scores(tiny_bert, tiny_batches):
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt, match="no Fisher information yet"):
        gv.fisher_information(tiny_bert, tiny_batches, stop=stop, progress=False)


def test_a_stopped_estimation_writes_its_checkpoint_at_once(tiny_bert, tiny_batches, tmp_path, monkeypatch):
    """However long the next writing would have been put off, as where writing is slow."""
    path = tmp_path / "c.safetensors"
    real = checkpoint.Checkpoint.write_if_due

    def rarely(self, sums, batches_done, *, always=False):
        self._cost = 1e9
        real(self, sums, batches_done, always=always)

    monkeypatch.setattr(checkpoint.Checkpoint, "write_if_due", rarely)
    monkeypatch.setattr(Run, "add_batch", pressing_at(2, Run.add_batch))
    settings = dict(method="batched", progress=False, checkpoint=path, checkpoint_seconds=1e9)
    with pytest.warns(RuntimeWarning, match="Stopped after 8 of 10"):
        gv.fisher_information(tiny_bert, tiny_batches, **settings)
    assert load_tensors(path, "gdrop_viz", remedy="")[0]["batches"] == 2


def test_a_thread_that_gets_no_signals_works_all_the_same(tiny_bert, tiny_batches):
    found = []

    def work():
        with interruptible(None) as stopping:
            found.append(stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == [False]


@pytest.mark.parametrize("part", ["Fisher", "surface", "curvature"])
def test_a_part_of_a_measurement_is_not_taken_for_the_whole(tiny_lm, tmp_path, monkeypatch, part):
    """Ctrl-C in any of its three parts ends `measure_landscape` without findings, and the same call goes on."""
    real = corpora.pretraining_batches
    monkeypatch.setattr(corpora, "pretraining_batches", lambda lm, **settings: real(lm, sentences(80), **settings))
    home, name = {
        "Fisher": (Run, "add_batch"),  # a batch
        "surface": (GrowingSurface, "put"),  # a point
        "curvature": (Hessian, "of"),  # a sequence
    }[part]
    settings = dict(n_fisher=48, n_sequences=6, max_length=12, n_directions=2, n_curvature=8, n_probes=1)
    settings |= {"work": tmp_path / "work", "progress": False}
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(home, name, pressing_at(2, getattr(home, name)))
        with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
            gv.measure_landscape(tiny_lm, tmp_path / "found", **settings)
    assert not (tmp_path / "found").exists()
    found = gv.measure_landscape(tiny_lm, tmp_path / "found", **settings)
    assert (found.settings["tiny"]["n_fisher"], found.settings["tiny"]["n_curvature"]) == (48, 8)
