"""Every change that a careless call could make, seen by `tests.unchanged`."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from tests.torture.interrupts import subject
from tests.unchanged import differences, snapshot, unchanged

MATRIX = "bert.encoder.layer.1.output.dense"


LEFT_OVER = "gdrop_viz left over"


def _named_thread() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name=LEFT_OVER, daemon=True)
    thread.end = done.set  # type: ignore[attr-defined]
    thread.start()


def _set_precision(to: str) -> None:
    """ "tf32", or "none" as torch begins with."""
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = to
    else:
        torch.set_float32_matmul_precision("high" if to == "tf32" else "highest")


def _weight(model: torch.nn.Module) -> None:
    with torch.no_grad():  # one bit
        weight = model.get_submodule(MATRIX).weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))


def _heedless(*_: object) -> None:
    """A handler of signals that nobody else sets."""


PROCESS: dict[str, Callable[[], object]] = {
    "python's generator": random.random,
    "numpy's generator": np.random.rand,
    "torch's generator": lambda: torch.rand(1),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "gradients on": lambda: torch.set_grad_enabled(False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "products of matrices": lambda: _set_precision("tf32"),
    "fused encoder layers": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "environment": lambda: os.environ.__setitem__("GDROP_VIZ_LEFT_OVER", "1"),
    "working directory": lambda: os.chdir("/"),
    "Ctrl-C": lambda: signal.signal(signal.SIGINT, _heedless),  # a job in the background ignores it already
    "SIGTERM": lambda: signal.signal(signal.SIGTERM, _heedless),
    "warning filters": lambda: warnings.simplefilter("error", UnicodeWarning),
    "log levels": lambda: logging.getLogger("transformers").setLevel(logging.ERROR - 1),
    "threads of ours": _named_thread,
}
MODEL: dict[str, Callable[[torch.nn.Module], object]] = {
    "weights": _weight,
    "the parameters themselves": lambda m: setattr(
        m.get_submodule(MATRIX), "weight", torch.nn.Parameter(m.get_submodule(MATRIX).weight.detach().clone())
    ),
    "gradients": lambda m: m.zero_grad(),
    "requires_grad": lambda m: m.requires_grad_(False),
    "modes": lambda m: m.train(not m.training),
    "modules": lambda m: setattr(m.bert.encoder.layer[0], "output", copy.copy(m.bert.encoder.layer[0].output)),
    "dropout rates": lambda m: setattr(m.bert.embeddings.dropout, "p", 0.2),
    "plain attributes": lambda m: setattr(m.bert.encoder, "drop_rate", 0.2),
    "buffers": lambda m: m.bert.embeddings.position_ids.add_(1),
    "the buffers themselves": lambda m: setattr(
        m.bert.embeddings, "position_ids", m.bert.embeddings.position_ids.clone()
    ),
    "configuration": lambda m: setattr(m.config, "hidden_dropout_prob", 0.2),
    "hooks": lambda m: m.bert.register_forward_hook(lambda *_: None),
    "forward": lambda m: setattr(m.bert, "forward", m.bert.forward),
}


@pytest.fixture
def undone() -> Iterator[None]:
    """Put back what the changes below change."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype, threads, folder = torch.get_default_dtype(), torch.get_num_threads(), os.getcwd()
    benchmark, level = torch.backends.cudnn.benchmark, logging.getLogger("transformers").level
    fused = torch.backends.mha.get_fastpath_enabled()
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    with warnings.catch_warnings(), contextlib.ExitStack() as after:
        after.callback(os.environ.pop, "GDROP_VIZ_LEFT_OVER", None)
        yield
    for thread in threading.enumerate():
        if thread.name == LEFT_OVER:
            thread.end()  # type: ignore[attr-defined]
            thread.join()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    _set_precision("none")
    torch.backends.mha.set_fastpath_enabled(fused)
    os.chdir(folder)
    logging.getLogger("transformers").setLevel(level)
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("what", PROCESS)
def test_a_change_of_the_process_is_seen(undone, what):
    before = snapshot()
    assert differences(before, snapshot()) == []
    PROCESS[what]()
    assert what in differences(before, snapshot())


@pytest.mark.parametrize("what", MODEL)
def test_a_change_of_a_model_is_seen(what):
    model = subject()
    before = snapshot(model)
    assert differences(before, snapshot(model)) == []
    MODEL[what](model)
    assert f"model 0: {what}" in differences(before, snapshot(model))


def test_every_part_of_the_watch_is_tried():
    seen = {name.removeprefix("model 0: ") for name in snapshot(subject())}
    assert seen == PROCESS.keys() | MODEL.keys()


def test_unchanged_names_what_did_not_come_back():
    model = subject()
    with unchanged(model):
        torch.ones(3).sum()
    with pytest.raises(AssertionError, match="changed: model 0: requires_grad, model 0: modes"), unchanged(model):  # noqa: PT012
        model.train(not model.training)
        model.requires_grad_(False)
    with pytest.raises(ValueError, match="of the work itself"), unchanged(model):
        raise ValueError("of the work itself")
