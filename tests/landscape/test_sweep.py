"""Is each point of a surface the loss of a model set there by hand, however the computation went?"""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gdrop_viz.curvature import hessian_trace
from gdrop_viz.landscape import Surface, loss_surface, loss_surfaces, proposed_extent
from gdrop_viz.models.losses import sequence_losses
from gdrop_viz.perturbation import Direction, random_direction, random_k
from tests.landscape import words
from tests.unchanged import unchanged
from tests.zoo import build


@pytest.fixture
def plane(tiny_bert):
    few = random_k(tiny_bert, 0.3)
    return [random_direction(tiny_bert, seed=0), random_direction(tiny_bert, seed=1, selection=few, move_vectors=True)]


def losses_by_hand(model, batches, directions, coefficients) -> np.ndarray:
    """Another model, built from a state dict, evaluated sequence by sequence with the full head."""
    moved = copy.deepcopy(model).eval()
    state = dict(moved.state_dict())
    for c, direction in zip(coefficients, directions, strict=True):
        for name, vector in direction.vectors.items():
            state[name] = state[name] + c * vector
    moved.load_state_dict(
        {name: value for name, value in state.items() if name in dict(moved.named_parameters())}, strict=False
    )
    out = []
    with torch.no_grad():
        for batch in batches:
            for i in range(len(batch["labels"])):
                length = int(batch["attention_mask"][i].sum())
                one = {name: value[i : i + 1, :length] for name, value in batch.items()}
                out.append(float(moved(**one).loss))
    return np.array(out)


def bits(model) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in model.state_dict().items()}


def test_every_point_is_that_of_a_model_set_there_by_hand(tiny_bert, tiny_batches, plane):
    surface = loss_surface(tiny_bert, tiny_batches, plane, extent=(1.0, 2.0), points=(3, 4), progress=False)
    assert surface.loss.shape == (3, 4)
    assert surface.y.tolist() == pytest.approx([-2, -2 / 3, 2 / 3, 2])
    for i, x in enumerate(surface.x):
        for j, y in enumerate(surface.y):
            expected = losses_by_hand(tiny_bert, tiny_batches, plane, (x, y))
            # float32, other batching and padding
            np.testing.assert_allclose(surface.sequence_losses[i, j], expected, rtol=2e-5)
            assert surface.loss[i, j] == pytest.approx(expected.mean(), rel=2e-5)
            assert surface.standard_error[i, j] == pytest.approx(expected.std(ddof=1) / math.sqrt(10), rel=1e-3)


@pytest.mark.parametrize("name", ["GPT2", "T5", "Llama"])
def test_other_architectures(name):
    case = build(name)
    directions = [random_direction(case.model, seed=seed) for seed in range(2)]
    surface = loss_surface(case.model, [case.batch], directions, points=3, progress=False)
    moved = copy.deepcopy(case.model)
    with torch.no_grad():
        for name, vector in directions[0].vectors.items():
            moved.get_parameter(name).add_(vector)
        expected = sequence_losses(moved, case.batch)
    np.testing.assert_allclose(surface.sequence_losses[2, 1], expected.numpy(), rtol=1e-6)


def test_the_centre_is_the_untouched_model_to_the_last_bit(tiny_bert, tiny_batches, plane):
    surface = loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False)
    with torch.no_grad():
        expected = torch.cat([sequence_losses(tiny_bert, batch).double() for batch in tiny_batches]).numpy()
    assert (surface.sequence_losses[2, 2] == expected).all()
    assert surface.centre_loss == expected.mean()


def test_the_model_and_the_process_are_left_as_they_were(tiny_bert, tiny_batches, plane):
    tiny_bert.train()
    tiny_bert.bert.encoder.eval()

    def interrupted(point):
        if point.n_done == 4:
            raise KeyboardInterrupt

    def failing(model, batches):
        torch.rand(3), np.random.rand(3), random.random()
        raise RuntimeError("metric")

    with unchanged(tiny_bert), pytest.raises(KeyboardInterrupt):
        loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False, on_point=interrupted)
    with unchanged(tiny_bert), pytest.raises(RuntimeError, match="metric"):
        loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False, metrics={"m": failing})
    with unchanged(tiny_bert):
        loss_surface(tiny_bert, tiny_batches, plane, points=2, progress=False)


def test_weights_come_back_from_an_interrupt_in_any_line():
    """Raise KeyboardInterrupt at the n-th line that runs between first move and last restoration, for every n."""
    model, batches, plane = words.scorer(), words.batches()[:1], words.plane()[:1]
    before = bits(model)

    def run(interrupt_at: int) -> int:
        lines = 0

        def watch(frame, event, argument):
            nonlocal lines
            if not frame.f_code.co_filename.endswith("evaluation.py"):
                return None
            if event == "line" and bits(model) != before:
                lines += 1
                if lines == interrupt_at:
                    raise KeyboardInterrupt
            return watch

        sys.settrace(watch)
        try:
            loss_surface(model, batches, plane, points=3, progress=False, loss=words.word_losses)
        finally:
            sys.settrace(None)
        return lines

    lines = run(interrupt_at=0)
    assert lines > 30
    for n in range(1, lines + 1):
        with pytest.raises(KeyboardInterrupt):
            run(n)
        assert bits(model) == before, n
        assert torch.is_grad_enabled(), n


def test_ctrl_c_returns_what_is_known(tiny_bert, tiny_batches, plane):
    before, handler = bits(tiny_bert), signal.getsignal(signal.SIGINT)

    def press(point):
        if point.n_done == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="4 of 25 points are known"):
        partial = loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False, on_point=press)
    assert partial.n_evaluated == 4
    assert bits(tiny_bert) == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_weights_are_restored_when_a_forward_pass_fails_far_out(tiny_bert, tiny_batches, plane):
    before, calls = bits(tiny_bert), []

    def fails_later(outputs, batch):
        calls.append(1)
        if len(calls) > 7:
            raise MemoryError
        return outputs.logits.mean((1, 2))

    with pytest.raises(MemoryError):
        loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False, loss=fails_later)
    assert bits(tiny_bert) == before


def test_half_precision_rounds_once(tiny_batches, tiny_bert, plane):
    half = copy.deepcopy(tiny_bert).to(torch.bfloat16)
    directions = [random_direction(half, seed=0), random_direction(half, seed=1)]
    name = "bert.encoder.layer.0.output.dense.weight"
    seen = []

    def weight(model, batches):
        seen.append(model.get_parameter(name).detach().clone())
        return 0.0

    before = bits_of_half = {n: p.detach().clone() for n, p in half.named_parameters()}
    surface = loss_surface(half, tiny_batches, directions, points=3, progress=False, metrics={"w": weight})
    assert all(torch.equal(p, before[n]) for n, p in half.named_parameters())
    assert np.isfinite(surface.loss).all()
    corner = (before[name].float() + directions[0].vectors[name] + directions[1].vectors[name]).to(torch.bfloat16)
    assert any(torch.equal(corner, one) for one in seen)
    assert bits_of_half is before


def test_a_diverged_point_is_recorded_as_it_is(tiny_batches, tiny_bert):
    weight = tiny_bert.cls.predictions.transform.dense.weight
    huge = Direction({"cls.predictions.transform.dense.weight": torch.full_like(weight, 1e38)}, label="off the cliff")
    surface = loss_surface(tiny_bert, tiny_batches, huge, extent=10.0, points=3, progress=False)
    assert surface.is_complete
    assert surface.n_diverged == 2
    assert not np.isfinite(surface.loss[[0, 2]]).any()
    assert np.isfinite(surface.loss[1])


def test_metrics_are_recorded_at_the_moved_weights(tiny_bert, tiny_batches, plane, tmp_path):
    def norm(model, batches):
        assert len(batches) == len(tiny_batches)
        return sum(p.detach().double().square().sum() for p in model.parameters()) ** 0.5

    path = tmp_path / "s.h5"
    surface = loss_surface(
        tiny_bert, tiny_batches, plane[:1], points=3, path=path, progress=False, metrics={"norm": norm}
    )
    moved = copy.deepcopy(tiny_bert)
    with torch.no_grad():
        for name, vector in plane[0].vectors.items():
            moved.get_parameter(name).add_(vector)
    assert surface.metrics["norm"][2] == pytest.approx(float(norm(moved, tiny_batches)), rel=1e-7)
    assert (Surface.load(path).metrics["norm"] == surface.metrics["norm"]).all()


def test_a_metric_may_be_a_trace(tiny_bert, tiny_batches, plane):
    def trace(model, batches):
        return hessian_trace(model, batches, 2, progress=False).mean

    surface = loss_surface(tiny_bert, tiny_batches, plane[:1], points=3, progress=False, metrics={"trace": trace})
    assert surface.metrics["trace"][1] == pytest.approx(trace(tiny_bert, tiny_batches), rel=1e-5)
    assert len(set(surface.metrics["trace"])) == 3
    assert not any(p.grad is not None for p in tiny_bert.parameters())


def test_several_surfaces_in_one_go_are_the_single_ones(tiny_bert, tiny_batches, plane, tmp_path):
    order = []
    planes = {"both": plane, "the same, turned": plane[::-1]}
    together = loss_surfaces(
        tiny_bert, tiny_batches, planes, points=3, folder=tmp_path, progress=False,
        on_point=lambda point: order.append((point.label, point.index)),
    )  # fmt: skip
    assert order[:2] == [("both", (1, 1)), ("the same, turned", (1, 1))]
    for name, directions in planes.items():
        alone = loss_surface(tiny_bert, tiny_batches, directions, points=3, progress=False)
        assert (together[name].loss == alone.loss).all()
    # not to the last bit: θ + x·d₁ + y·d₂ is rounded in another order
    np.testing.assert_allclose(together["both"].loss.T, together["the same, turned"].loss, rtol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"both.h5", "the_same__turned.h5"}


def test_stop_keeps_what_is_known_and_the_rest_comes_later(tiny_bert, tiny_batches, plane, tmp_path):
    path, stop = tmp_path / "s.h5", threading.Event()
    seen = []

    def on_point(point):
        seen.append(point)
        if point.n_done == 7:
            stop.set()

    before = bits(tiny_bert)
    partial = loss_surface(
        tiny_bert, tiny_batches, plane, points=5, path=path, progress=False, on_point=on_point, stop=stop
    )
    assert bits(tiny_bert) == before
    assert partial.n_evaluated == 7
    assert not partial.is_complete
    assert np.isnan(partial.loss[~partial.evaluated]).all()
    assert seen[3].surface().n_evaluated == 7  # the surface so far, at the time of asking
    assert seen[3].loss == partial.loss[seen[3].index]
    on_disk = Surface.load(path)
    assert (on_disk.evaluated == partial.evaluated).all()
    again = []
    whole = loss_surface(
        tiny_bert, tiny_batches, plane, points=5, path=path, progress=False, on_point=lambda p: again.append(p.n_done)
    )
    assert again == list(range(8, 26))
    fresh = loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False)
    assert (whole.sequence_losses == fresh.sequence_losses).all()
    assert (whole.standard_error == fresh.standard_error).all()
    # a complete file is simply read
    before = path.read_bytes()
    assert (loss_surface(tiny_bert, tiny_batches, plane, points=5, path=path, progress=False).loss == fresh.loss).all()
    assert path.read_bytes() == before


def test_a_file_of_another_computation_is_refused(tiny_bert, tiny_batches, plane, tmp_path):
    path = tmp_path / "s.h5"
    loss_surface(tiny_bert, tiny_batches, plane, points=3, path=path, progress=False)
    other = copy.deepcopy(tiny_bert)
    with torch.no_grad():
        other.bert.embeddings.LayerNorm.bias[0] += 1
    changed = {
        "model": (other, tiny_batches, plane, 3, {}),
        "text": (tiny_bert, tiny_batches[:2], plane, 3, {}),
        "directions": (tiny_bert, tiny_batches, plane[::-1], 3, {}),
        "grid": (tiny_bert, tiny_batches, plane, 5, {}),
        "metrics": (tiny_bert, tiny_batches, plane, 3, {"metrics": {"one": lambda model, batches: 1.0}}),
    }
    before = path.read_bytes()
    for what, (model, batches, directions, points, settings) in changed.items():
        with pytest.raises(ValueError, match=f"with other {what}; give another path, or move"):
            loss_surface(model, batches, directions, points=points, path=path, progress=False, **settings)
    Surface(np.zeros(3), None, np.zeros(3)).save(tmp_path / "foreign.h5")
    with pytest.raises(ValueError, match="file from elsewhere"):
        loss_surface(tiny_bert, tiny_batches, plane, points=3, path=tmp_path / "foreign.h5", progress=False)
    assert path.read_bytes() == before


SCRIPT = """
import sys, time
from gdrop_viz.landscape import loss_surface
from tests.landscape.words import batches, plane, scorer, word_losses
loss_surface(scorer(), batches(), plane(), points=9, path=sys.argv[1], progress=False, loss=word_losses,
             on_point=lambda point: time.sleep(0.02))
"""


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path):
    path = tmp_path / "s.h5"
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and Surface.load(path).n_evaluated >= 20:  # reading does not disturb the writer
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    killed = Surface.load(path)
    assert 20 <= killed.n_evaluated < 81
    new = []
    settings = dict(points=9, progress=False, loss=words.word_losses)
    whole = loss_surface(words.scorer(), words.batches(), words.plane(), path=path, on_point=new.append, **settings)
    assert len(new) == 81 - killed.n_evaluated
    fresh = loss_surface(words.scorer(), words.batches(), words.plane(), **settings)
    assert (whole.sequence_losses == fresh.sequence_losses).all()


def test_a_pool_of_processes_gives_identical_results(tmp_path):
    model = words.scorer()
    settings = dict(points=5, progress=False, loss=words.word_losses, metrics={"accuracy": words.accuracy})
    before = bits(model)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        pooled = loss_surface(
            model, words.batches(), words.plane(), path=tmp_path / "s.h5", executor=executor, **settings
        )
    assert bits(model) == before
    here = loss_surface(model, words.batches(), words.plane(), **settings)
    assert (pooled.sequence_losses == here.sequence_losses).all()
    assert (pooled.metrics["accuracy"] == here.metrics["accuracy"]).all()
    assert (Surface.load(tmp_path / "s.h5").sequence_losses == here.sequence_losses).all()


def test_dask_gives_identical_results():
    from distributed import Client

    settings = dict(points=3, progress=False, loss=words.word_losses)
    here = loss_surface(words.scorer(), words.batches(), words.plane(), **settings)
    cluster = dict(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None)
    with Client(**cluster) as client, client.get_executor() as executor:
        there = loss_surface(words.scorer(), words.batches(), words.plane(), executor=executor, **settings)
    assert (there.sequence_losses == here.sequence_losses).all()


class Counting(ThreadPoolExecutor):
    """Counts the points that are sent together with the model."""

    def __init__(self, workers):
        super().__init__(workers)
        self.sent = 0

    def submit(self, function, token, payload, *rest):
        self.sent += payload is not None
        return super().submit(function, token, payload, *rest)


def test_each_worker_gets_the_model_once_and_threads_do_not_share_it(tiny_bert, tiny_batches, plane):
    before = bits(tiny_bert)
    with Counting(3) as executor:
        threaded = loss_surface(tiny_bert, tiny_batches, plane, points=7, progress=False, executor=executor)
    assert bits(tiny_bert) == before
    here = loss_surface(tiny_bert, tiny_batches, plane, points=7, progress=False)
    assert (threaded.sequence_losses == here.sequence_losses).all()
    # one more than workers is in flight, and none that is submitted later needs the model
    assert 1 <= executor.sent <= 4


def test_what_cannot_be_sent_to_a_worker_is_named(tiny_bert, tiny_batches, plane):
    loss = lambda outputs, batch: outputs.logits[:, 0, 0]  # noqa: E731
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="can be sent to another process"):
        loss_surface(tiny_bert, tiny_batches, plane, points=3, progress=False, executor=executor, loss=loss)


def test_an_executor_can_be_stopped_and_a_worker_may_fail(tiny_bert, tiny_batches, plane):
    stop = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        partial = loss_surface(
            tiny_bert, tiny_batches, plane, points=9, progress=False, executor=executor, stop=stop,
            on_point=lambda point: stop.set() if point.n_done == 5 else None,
        )  # fmt: skip
        assert partial.n_evaluated >= 5
        assert not partial.is_complete
        with pytest.raises(ZeroDivisionError):
            loss_surface(
                tiny_bert, tiny_batches, plane, points=3, progress=False, executor=executor, metrics={"m": broken}
            )


def broken(model, batches):
    return 1 / 0


def test_the_proposed_extent_shows_basin_and_walls(tiny_bert, tiny_batches):
    # a closed form: L = 2 + (r / 0.3)², which has risen by 1 nat at r = 0.3
    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 2))

        def forward(self, input):
            return 2 + (self.weight.square().sum() / 0.09).expand(len(input))

    axes = [Direction({"weight": torch.tensor([row])}) for row in ([1.0, 0.0], [0.0, 1.0])]
    batches = [{"input": torch.zeros(3, 1)}]
    extent = proposed_extent(Bowl(), batches, axes, loss=lambda outputs, batch: outputs)
    # bracketed within a factor 2^(1/4), then rounded to two digits
    assert 0.6 <= extent <= 0.6 * 2**0.25 * 1.02
    surface = loss_surface(Bowl(), batches, axes, extent=None, points=5, progress=False, loss=lambda o, b: o)
    assert surface.x[-1] == extent
    flat = [Direction({"weight": torch.tensor([[1e-9, 0.0]])})]
    assert proposed_extent(Bowl(), batches, flat, loss=lambda o, b: o) == 64


def test_bad_arguments_are_named_before_any_work(tiny_bert, tiny_lm, tiny_batches, plane):
    def refuses(error, match, *arguments, **settings):
        with pytest.raises(error, match=match):
            loss_surface(*arguments, progress=False, **settings)

    refuses(TypeError, r"pass lm\.model", tiny_lm, tiny_batches, plane)
    refuses(ValueError, "one direction", tiny_bert, tiny_batches, [])
    refuses(ValueError, "one direction", tiny_bert, tiny_batches, plane * 2)
    refuses(TypeError, "to be a Direction", tiny_bert, tiny_batches, ["x"])
    refuses(ValueError, "make the directions from this model", nn.Linear(2, 2), tiny_batches, plane)
    refuses(ValueError, "at least one batch", tiny_bert, [], plane)
    refuses(ValueError, "one entry for each of 2", tiny_bert, tiny_batches, plane, (1.0, 1.0, 1.0))
    refuses(ValueError, "extent", tiny_bert, tiny_batches, plane, -1.0)
    refuses(ValueError, "points", tiny_bert, tiny_batches, plane, points=1)
    refuses(TypeError, "Executor", tiny_bert, tiny_batches, plane, executor=4)
    refuses(TypeError, "callable", tiny_bert, tiny_batches, plane, metrics={"a": 1})
    refuses(ValueError, "names of metrics", tiny_bert, tiny_batches, plane, metrics={"loss": words.accuracy})
    no_labels = [{"input_ids": torch.zeros(2, 4, dtype=torch.long)}]
    refuses(ValueError, "labels", tiny_bert, no_labels, plane)
