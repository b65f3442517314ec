"""Numbers to be trusted: the same again, whatever the batches, the length of the run and the precision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.fisher import sums as sums_module
from gdrop_viz.fisher.sums import Sums
from tests.conftest import sentences

# one sequence's gradient is rounded to float32 in another order when its neighbours change: some units in the last
# place of each sum of products, and these are at most a few hundred terms long
ROUNDING = 2e-4


def fisher_of(model, batches, **settings):
    return gv.fisher_information(model, batches, progress=False, method="batched", **settings)


def bits(fisher):
    return [fisher.means.to_numpy().tobytes(), *(score.numpy().tobytes() for score in fisher.scores.values())]


def test_two_runs_have_the_same_bits(tiny_lm, tiny_batches):
    first, second = (fisher_of(tiny_lm.model, tiny_batches, estimator="sampled", seed=3) for _ in range(2))
    assert bits(first) == bits(second)
    plane = [gv.random_direction(tiny_lm.model, seed=seed) for seed in (0, 1)]
    surfaces = [gv.loss_surface(tiny_lm.model, tiny_batches, plane, points=3, progress=False) for _ in range(2)]
    assert surfaces[0].sequence_losses.tobytes() == surfaces[1].sequence_losses.tobytes()
    assert gv.hessian_trace(tiny_lm.model, tiny_batches, 2, progress=False).samples.tobytes() == (
        gv.hessian_trace(tiny_lm.model, tiny_batches, 2, progress=False).samples.tobytes()
    )


@pytest.mark.parametrize("estimator", ["empirical", "hutchinson"])
def test_batch_size_and_order_change_rounding_only(tiny_lm, estimator):
    def batches(size):
        return gv.pretraining_batches(
            tiny_lm, sentences(40), n_sequences=12, batch_size=size, max_length=12, progress=False
        )

    whole = fisher_of(tiny_lm.model, batches(12), estimator=estimator)
    for size in (1, 5):
        other = fisher_of(tiny_lm.model, batches(size), estimator=estimator)
        np.testing.assert_allclose(other.means, whole.means, rtol=ROUNDING, atol=1e-12)
        np.testing.assert_allclose(other.standard_errors, whole.standard_errors, rtol=ROUNDING, atol=1e-12)
    if estimator == "empirical":  # the others' random labels belong to a sequence's place in the text
        backwards = [{name: value.flip(0) for name, value in batch.items()} for batch in reversed(batches(5))]
        other = fisher_of(tiny_lm.model, backwards)
        np.testing.assert_allclose(other.means, whole.means, rtol=ROUNDING, atol=1e-12)


def test_losses_do_not_depend_on_the_neighbours(tiny_lm, tiny_batches):
    for batch in tiny_batches:
        together = gv.sequence_losses(tiny_lm.model, batch).detach()
        alone = [
            gv.sequence_losses(tiny_lm.model, {name: value[n : n + 1] for name, value in batch.items()}).detach()
            for n in range(len(together))
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def million(batch: int = 1000):
    """The sums over a million sequences with gradient 0.1 ** 0.5 in each of three parameters, without a model."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    sums = Sums.of({"w": parameter}, elements=True)
    gradient = torch.full((3,), 0.1**0.5)
    square = gradient.square()
    for _ in range(1_000_000 // batch):
        sums.begin(batch)
        for _ in range(batch):  # one float32 addition per sequence, as the loop does
            sums.squares["w"].add_(square)
        sums.batch_norms[:, 0] += np.float32(0.3)
        sums.end("a batch")
    sums.gather()
    return sums


def test_a_million_sequences_do_not_drift():
    sums = million()
    # the means are kept in float64: only float32's 0.3 and 0.1 differ from the decimal numbers
    assert sums.means()[0] == pytest.approx(float(np.float32(0.3)) / 3, rel=1e-12)
    scores = sums.squares["w"].double() / 1e6
    assert float((scores / 0.1 - 1).abs().max()) < 1e-4
    # what one float32 sum of all would give
    plain = np.cumsum(np.full(1_000_000, 0.1, dtype=np.float32), dtype=np.float32)[-1] / 1e6
    assert abs(plain / 0.1 - 1) > 5e-3


def test_a_run_that_was_folded_and_resumed_has_the_same_bits(tiny_lm, tiny_batches, tmp_path, monkeypatch):
    monkeypatch.setattr(sums_module, "FOLD", 4)
    whole = fisher_of(tiny_lm.model, tiny_batches)
    fisher_of(tiny_lm.model, tiny_batches, checkpoint=tmp_path / "c.st", checkpoint_seconds=0)
    again = fisher_of(tiny_lm.model, tiny_batches, checkpoint=tmp_path / "c.st")
    assert bits(whole) == bits(again)
    monkeypatch.undo()
    np.testing.assert_allclose(fisher_of(tiny_lm.model, tiny_batches).means, whole.means, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_is_close(tiny_lm, tiny_batches, dtype, tolerance):
    """Stated tolerance: 2 % (float16) and 10 % (bfloat16, 8 bits of mantissa) of a tensor's mean score.

    For all tensors that hold at least a millionth of the largest score: key biases have none but for rounding.
    """
    half = copy.deepcopy(tiny_lm.model).to(dtype)
    exact = fisher_of(tiny_lm.model, tiny_batches).means
    rough = fisher_of(half, tiny_batches)
    assert all(score.dtype == torch.float32 for score in rough.scores.values())
    shown = exact > 1e-6 * exact.max()
    assert shown.sum() > 20
    np.testing.assert_allclose(rough.means[shown], exact[shown], rtol=tolerance)
    losses = [gv.sequence_losses(model, tiny_batches[0]).detach().float() for model in (tiny_lm.model, half)]
    torch.testing.assert_close(losses[1], losses[0], rtol=tolerance / 4, atol=0)
