"""Are the traces and scores of sequences those of brute force, and do their intervals hold what they promise?"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

from gdrop_viz.base.intervals import mean_with_errors, rank_agreement, ratio_of_sums
from gdrop_viz.curvature import SequenceCurvature, sequence_curvature
from gdrop_viz.fisher import fisher_information
from gdrop_viz.fisher.batch import part_of
from gdrop_viz.perturbation import random_k, select
from tests.curvature.conftest import chosen_of, dense_by_differences


def test_each_sequence_has_the_trace_of_its_own_dense_hessian(small):
    model, batches, dense = small
    few = random_k(model, 0.2, seed=1)
    found = sequence_curvature(model, batches, 60, parts={"few": few}, progress=False)
    ones = [part_of(batch, slice(n, n + 1)) for batch in batches for n in range(len(batch["labels"]))]
    diagonals = np.array([np.diag(dense_by_differences(model, [one])) for one in ones])
    np.testing.assert_allclose(diagonals.mean(axis=0), np.diag(dense), atol=1e-6)
    for traces, truth in (
        (found.traces.sum(axis=2), diagonals.sum(axis=1)),
        (found.parts["few"][0], diagonals[:, chosen_of(model, few)].sum(axis=1)),
    ):
        errors = traces.std(axis=1, ddof=1) / np.sqrt(60)
        assert (abs(traces.mean(axis=1) - truth) < 4 * errors).all()
    whole = diagonals.sum(axis=1)  # the sequences differ: one taken for another would be seen
    errors = found.traces.sum(axis=2).std(axis=1, ddof=1) / np.sqrt(60)
    assert (abs(found.traces.sum(axis=2).mean(axis=1) - np.roll(whole, 1)) > 4 * errors).any()
    blocks = np.split(diagonals, np.cumsum(found.sizes)[:-1], axis=1)
    truth = np.array([block.sum(axis=1) for block in blocks]).T
    errors = found.traces.std(axis=1, ddof=1) / np.sqrt(60)
    assert (abs(found.traces.mean(axis=1) - truth) < 5 * errors + 1e-6).all()


def test_scores_are_the_fisher_informations(small):
    model, batches, _ = small
    few = random_k(model, 0.2, seed=1)
    found = sequence_curvature(model, batches, 1, parts={"few": few}, progress=False)
    fisher = fisher_information(model, batches, progress=False)
    sums = {name: float(scores.sum()) for name, scores in fisher.scores.items()}
    # in float64 both are exact; the key's bias has no gradient but rounding's
    np.testing.assert_allclose(found.scores.mean(axis=0), [sums[name] for name in found.names], rtol=1e-6, atol=1e-20)
    inside = sum(float(fisher.scores[name][few.mask(name)].sum()) for name in few.names)
    assert found.parts["few"][1].mean() == pytest.approx(inside, rel=1e-6)
    for by in ("layer", "component", "place", "all"):
        frame = found.to_frame(by)
        assert frame["fisher"].sum() == pytest.approx(sum(sums.values()), rel=1e-6)
        assert frame["elements"].sum() == sum(found.sizes)
    inner = sequence_curvature(model, batches, 1, selection=few, progress=False)
    assert inner.to_frame("all")["fisher"].item() == pytest.approx(inside, rel=1e-6)
    assert sum(inner.sizes) == few.n_elements


def test_a_diagonal_hessian_leaves_the_texts_part_alone():
    """L_n = Σᵢ (xᵢ wᵢ)², one xᵢ ≠ 0: every probe gives tr H_n = 2 xᵢ² itself, and the gradient is 2 xᵢ² wᵢ."""
    model = nn.Linear(3, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    batches = [{"input": torch.diag(torch.tensor([1.0, 2.0, 3.0]))}]
    found = sequence_curvature(model, batches, 3, loss=lambda outputs, batch: outputs[:, 0] ** 2, progress=False)
    traces, scores = np.array([2.0, 8.0, 18.0]), np.array([2.0, 8.0, 18.0]) ** 2 * 4
    np.testing.assert_allclose(found.traces[:, :, 0], np.repeat(traces[:, None], 3, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.scores[:, 0], scores, rtol=1e-6)
    ratio = found.ratio()
    assert ratio["ratio"] == pytest.approx(28 / scores.sum())
    assert ratio["probe_error"] == pytest.approx(0, abs=1e-9)
    deviations = (traces - ratio["ratio"] * scores) / scores.mean()
    assert ratio["standard_error"] == ratio["text_error"] == pytest.approx(deviations.std(ddof=1) / np.sqrt(3))


def test_the_two_parts_of_an_error_are_those_of_a_simulation():
    """Means of N sequences x P probes from known spreads: text 3, probes 4."""
    rng = np.random.default_rng(0)
    n, probes, repeats = 20, 2, 4000
    draws = 3 * rng.normal(size=(repeats, n, 1)) + 4 * rng.normal(size=(repeats, n, probes))
    found = np.array([mean_with_errors(values) for values in draws])
    assert found[:, 0].std() == pytest.approx(np.sqrt((9 + 16 / probes) / n), rel=0.05)
    # squared errors are unbiased; 4,000 repeats leave about 1 %
    assert (found[:, 1] ** 2).mean() == pytest.approx((9 + 16 / probes) / n, rel=0.05)
    assert (found[:, 2] ** 2).mean() == pytest.approx(16 / probes / n, rel=0.05)
    assert np.isnan(mean_with_errors(draws[0, :, :1])[2])


def test_the_ratios_error_and_interval_hold_in_a_simulation():
    """Skewed sums that go together, ratio 5: as on text. 300 draws of 64 sequences; 95 % ± 2.5 % if exact."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        common = rng.normal(size=64)
        scores = np.exp(0.6 * common + 0.3 * rng.normal(size=64))
        traces = 5 * np.exp(0.6 * common + 0.3 * rng.normal(size=64))
        found.append(ratio_of_sums(traces, scores))
    ratios = np.array([each["ratio"] for each in found])
    held = np.mean([each["low"] <= 5 <= each["high"] for each in found])
    assert 0.90 <= held <= 0.98  # bootstrap intervals are a little short for 64 skewed values
    assert np.mean([each["standard_error"] for each in found]) == pytest.approx(ratios.std(), rel=0.1)
    # the two sums taken for independent would give more than twice that
    assert ratios.std() < 0.5 * 5 * np.sqrt(2 * np.expm1(0.45) / 64)


def test_the_rank_interval_holds_in_a_simulation():
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(2, 16)) + 1.5 * rng.normal(size=16)
    truth = rank_agreement(*np.exp(levels)[:, None])["rank_correlation"]
    held, estimates = [], []
    for _ in range(200):
        noise = np.exp(0.8 * rng.normal(size=(2, 96, 16)) + 0.5 * rng.normal(size=(96, 1)))
        found = rank_agreement(*(np.exp(levels)[:, None] * noise))
        estimates.append(found["rank_correlation"])
        held.append(found["low"] <= truth <= found["high"])
        assert -1 <= found["low"] <= found["rank_correlation"] <= found["high"] <= 1
    assert np.mean(held) >= 0.93
    assert np.std(estimates) > 0  # there was something to hold
    assert np.isnan(rank_agreement(np.ones((3, 2)), np.ones((3, 2)) * [1, 2])["low"])


def test_probes_are_repeatable_and_each_sequences_own(tiny_bert, tiny_batches):
    first, again = (sequence_curvature(tiny_bert, tiny_batches, 1, progress=False) for _ in range(2))
    np.testing.assert_array_equal(first.traces, again.traces)
    other = sequence_curvature(tiny_bert, tiny_batches, 1, seed=1, progress=False)
    assert (first.traces != other.traces).any()
    twice = [part_of(tiny_batches[0], slice(0, 1))] * 2
    same_text = sequence_curvature(tiny_bert, twice, 1, progress=False)
    np.testing.assert_array_equal(same_text.scores[0], same_text.scores[1])
    assert (same_text.traces[0] != same_text.traces[1]).any()


def test_a_stopped_one_keeps_its_sequences(tiny_bert, tiny_batches):
    class After:
        def __init__(self, looks):
            self.looks = looks

        def is_set(self):
            self.looks -= 1
            return self.looks < 0

    found = sequence_curvature(tiny_bert, tiny_batches, 1, progress=False, stop=After(3))
    whole = sequence_curvature(tiny_bert, tiny_batches, 1, progress=False)
    np.testing.assert_array_equal(found.traces, whole.traces[:3])
    with pytest.raises(RuntimeError, match="before the second sequence"):
        sequence_curvature(tiny_bert, tiny_batches, 1, progress=False, stop=After(1))


def test_what_is_saved_is_the_same(tiny_bert, tiny_batches, tmp_path):
    parts = {"bias": select(tiny_bert, lambda name: name.endswith("bias"))}
    found = sequence_curvature(tiny_bert, tiny_batches[:1], 2, parts=parts, progress=False)
    found.save(tmp_path / "c.safetensors")
    again = SequenceCurvature.load(tmp_path / "c.safetensors")
    assert repr(again) == repr(found)
    for by in ("tensor", "part"):
        assert again.to_frame(by).equals(found.to_frame(by))
    assert "SequenceCurvature" in again._repr_html_()


def test_bad_arguments_are_named(tiny_bert, tiny_batches):
    stop = threading.Event()
    stop.set()
    with pytest.raises(RuntimeError, match="stopped"):
        sequence_curvature(tiny_bert, tiny_batches, progress=False, stop=stop)
    with pytest.raises(ValueError, match="two sequences"):
        sequence_curvature(tiny_bert, [part_of(tiny_batches[0], slice(0, 1))], progress=False)
    with pytest.raises(ValueError, match="n_probes"):
        sequence_curvature(tiny_bert, tiny_batches, 0)
