"""Does a call give back dtype, threads, environment, switches and generators, however it ends?"""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import gdrop_viz as gv
from gdrop_viz.base.parallel import _in_worker, _PayloadWanted, packed
from gdrop_viz.base.state import limited_threads, preserved_rng, preserved_switches
from gdrop_viz.curvature import Hessian
from gdrop_viz.curvature.hessian import twice_differentiable
from tests.finetuning.conftest import animal_rows
from tests.unchanged import differences, snapshot

ENDS = [None, RuntimeError, KeyboardInterrupt]
QUICK = {"seeds": [0], "epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "progress": False}


@pytest.fixture
def task():
    import sklearn.metrics  # noqa: F401  (sets a variable of the environment when it is first imported)

    return gv.Task("animals", train=animal_rows(16, seed=0), validation=animal_rows(8, seed=1))


def ended(context, work, error) -> None:
    """Do the work in the context, and end it with `error`."""
    try:
        with context:
            work()
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error is not None


# --- generators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("seed", [None, 5])
def test_generators(error, seed):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    seen = []
    ended(preserved_rng(seed), lambda: seen.append((random.random(), np.random.rand(), torch.rand(1).item())), error)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert (seen[0] == expected) == (seed is None)


def test_generators_of_gpus(monkeypatch):
    """Stood for by a list: here is none."""
    states = ["as it was"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(states))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda given: states.__setitem__(slice(None), given))
    ended(preserved_rng(), lambda: states.__setitem__(0, "drawn from"), KeyboardInterrupt)
    assert states == ["as it was"]


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    """How many threads torch has; given back whatever a failed test has left."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize("error", ENDS)
def test_threads(threads, error):
    seen = []
    ended(limited_threads(threads + 1), lambda: seen.append(torch.get_num_threads()), error)
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads


def test_threads_of_a_comparison(threads, tiny_lm, task):
    seen = []

    def arm(model: nn.Module) -> None:
        seen.append(torch.get_num_threads())

    gv.compare(tiny_lm, task, {"a": arm}, threads=threads + 1, **QUICK)
    assert seen[-1] == threads + 1  # the first is a trial of the arm
    assert torch.get_num_threads() == threads

    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gv.compare(tiny_lm, task, {"a": 0.1}, threads=threads + 1, on_event=interrupt, **QUICK)
    assert torch.get_num_threads() == threads


def _seen_threads(count: int) -> int:
    if count < 0:
        raise RuntimeError("as asked")
    return torch.get_num_threads()


def _seeing() -> object:
    return _seen_threads


def test_threads_of_a_worker(threads):
    payload = packed((_seeing, ()), "a function")
    assert isinstance(_in_worker("t", None, (1,), threads + 1), _PayloadWanted)  # it has not got the function yet
    assert _in_worker("t", payload, (1,), threads + 1) == threads + 1
    assert torch.get_num_threads() == threads
    with pytest.raises(RuntimeError, match="as asked"):
        _in_worker("t", None, (-1,), threads + 1)
    assert torch.get_num_threads() == threads


# --- switches and environment -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ENDS)
def test_switches(monkeypatch, error):
    monkeypatch.setenv("GDROP_VIZ_CHANGED", "before")
    monkeypatch.setenv("GDROP_VIZ_REMOVED", "before")
    monkeypatch.delenv("GDROP_VIZ_LATER", raising=False)
    before = snapshot()

    def work() -> None:
        os.environ["GDROP_VIZ_CHANGED"] = os.environ["GDROP_VIZ_ADDED"] = "inside"
        del os.environ["GDROP_VIZ_REMOVED"]
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = True
        if hasattr(torch.backends, "fp32_precision"):
            torch.backends.fp32_precision = "tf32"
        assert len(differences(before, snapshot())) >= 4

    try:
        with preserved_switches() as set_up:
            work()
            set_up()
            os.environ["GDROP_VIZ_LATER"] = "by another thread"
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error is not None
    assert os.environ.pop("GDROP_VIZ_LATER") == "by another thread"
    assert differences(before, snapshot()) == []


def _fail(event: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("on_event", [None, _fail])
def test_a_training_that_asks_the_trainer_for_determinism(tiny_lm, task, on_event):
    """For it the Trainer sets switches and variables of the environment, for good."""
    import gdrop_viz.finetuning.trainer  # noqa: F401  (the first import sets variables too)

    before = snapshot(tiny_lm.model)
    settings = {"epochs": 1, "batch_size": 8, "training_arguments": {"full_determinism": True}}
    try:
        gv.fine_tune(tiny_lm, task, 0.1, on_event=on_event, **settings)
    except KeyboardInterrupt:
        assert on_event is not None
    assert differences(before, snapshot(tiny_lm.model)) == []


def test_a_training_that_cannot_be_set_up(tiny_lm, task, monkeypatch):
    import gdrop_viz.finetuning.trainer as trainer

    def broken(*_: object, **__: object) -> None:
        os.environ["GDROP_VIZ_ADDED"] = "inside"
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("as asked")

    monkeypatch.setattr(trainer, "make_trainer", broken)
    before = snapshot(tiny_lm.model)
    with pytest.raises(RuntimeError, match="as asked"):
        gv.fine_tune(tiny_lm, task, 0.1, epochs=1)
    assert differences(before, snapshot(tiny_lm.model)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_a_model(tiny_lm, tmp_path, dtype):
    folder = tiny_lm.save(tmp_path / "model")
    gv.load_pretrained(folder)  # what libraries set when they are first imported is not the call's doing
    before = snapshot()
    gv.load_pretrained(folder, dtype=dtype)
    assert differences(before, snapshot()) == []
    (folder / "checksums.json").unlink()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises((RuntimeError, ValueError)):
        gv.load_pretrained(folder, dtype=dtype)
    assert differences(before, snapshot()) == []


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("enabled", [True, False])
def test_fused_encoder_layers(tiny_bert, tiny_batches, error, enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    seen = []
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        ended(Hessian(tiny_bert, tiny_batches), lambda: seen.append(torch.backends.mha.get_fastpath_enabled()), error)
        assert seen == [False]
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("error", ENDS)
def test_the_models_kernel_for_attention(error):
    """Stood for by its name: here is no GPU for the real one."""

    class Flash(nn.Module):
        config = SimpleNamespace(_attn_implementation="flash_attention_2")

        def set_attn_implementation(self, name: str) -> None:
            self.config._attn_implementation = name

    model, seen = Flash(), []
    ended(twice_differentiable(model), lambda: seen.append(model.config._attn_implementation), error)
    assert (seen, model.config._attn_implementation) == (["eager"], "flash_attention_2")
