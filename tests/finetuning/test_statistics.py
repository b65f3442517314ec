from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdrop_viz.base.intervals import student_interval
from gdrop_viz.finetuning import statistics
from gdrop_viz.finetuning.power import detectable_effect, paired_power, seeds_needed, smallest_p
from gdrop_viz.finetuning.statistics import PairedTest, holm, paired_test
from gdrop_viz.finetuning.verdict import verdict


@pytest.mark.parametrize("n", [2, 3, 10, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_is_scipys(n, confidence):
    values = np.random.default_rng(n).normal(size=n)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    interval = student_interval(values, confidence)
    # two orders of the same few float64 operations
    assert interval.low == pytest.approx(expected.low, rel=1e-10)
    assert interval.high == pytest.approx(expected.high, rel=1e-10)
    assert interval.n == n


def test_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(loc=3.0, size=(2000, 4))
    covered = np.mean([(i := student_interval(row)).low <= 3.0 <= i.high for row in draws])
    # 95 % of 2000 is binomial with a standard deviation of 0.5 %; four of them
    assert abs(covered - 0.95) < 0.02


def brute_force_p(differences):
    observed = abs(np.mean(differences))
    flips = itertools.product([-1, 1], repeat=len(differences))
    means = [abs(np.mean(np.multiply(signs, differences))) for signs in flips]
    return np.mean([mean >= observed - 1e-12 for mean in means])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=8))
@example([0, 0, 0, 0, 3, -4, -4, 5])
def test_p_is_the_share_of_sign_flips_at_least_as_extreme(differences):
    # integers, as accuracies are multiples of 1/n: ties must count as ties
    values = np.array(differences) / 160
    assert paired_test(values, np.zeros(len(values))).p == pytest.approx(brute_force_p(values), abs=1e-12)


def test_sampled_p_is_near_the_normal_approximation_for_many_pairs():
    differences = np.random.default_rng(1).normal(0.3, 1.0, size=40)
    p = paired_test(differences, np.zeros(40)).p
    # 99,999 resamples: standard error below 0.0016; the t-test differs by little at n = 40
    assert p == pytest.approx(scipy.stats.ttest_1samp(differences, 0.0).pvalue, abs=0.01)
    assert paired_test(differences, np.zeros(40)).p == p


def test_five_pairs_cannot_reach_five_percent():
    test = paired_test([0.8, 0.81, 0.82, 0.83, 0.84], [0.5, 0.51, 0.52, 0.53, 0.54])
    assert test.p == smallest_p(5) == 0.0625


def test_equal_and_missing_values():
    assert paired_test([0.7] * 6, [0.7] * 6).p == 1.0
    assert math.isnan(paired_test([0.7, math.nan], [0.6, 0.5]).p)
    assert math.isnan(paired_test([0.7], [0.6]).p)
    with pytest.raises(ValueError, match="one length"):
        paired_test([1.0, 2.0], [1.0])


def test_holm_against_its_definition():
    p = np.array([0.011, 0.02, 0.5, 0.04])
    # step by step: 4 * 0.011, 3 * 0.02, 2 * 0.04, 1 * 0.5, each at least its forerunner
    np.testing.assert_allclose(holm(p), [0.044, 0.06, 0.5, 0.08])
    assert np.isnan(holm([np.nan, 0.01])).tolist() == [True, False]
    assert holm([np.nan, 0.01])[1] == 0.01


@pytest.mark.parametrize(("effect", "n"), [(0.5, 10), (1.0, 6), (1.0, 12), (0.0, 8)])
def test_power_against_simulation(effect, n):
    draws = np.random.default_rng(2).normal(effect, 1.0, size=(4000, n))
    found = np.mean(scipy.stats.ttest_1samp(draws, 0.0, axis=1).pvalue <= 0.05)
    # four standard errors of a share of 4000
    assert paired_power(effect, 1.0, n) == pytest.approx(found, abs=4 * 0.5 / math.sqrt(4000))


def test_power_depends_on_effect_over_std_only():
    assert paired_power(0.01, 0.02, 9) == pytest.approx(paired_power(1.0, 2.0, 9))
    assert paired_power(-1.0, 2.0, 9) == pytest.approx(paired_power(1.0, 2.0, 9))
    assert paired_power(100.0, 0.1, 20) == 1.0


@pytest.mark.parametrize("n", [2, 5, 20])
def test_detectable_effect_has_the_promised_power(n):
    effect = detectable_effect(0.013, n, power=0.8)
    assert paired_power(effect, 0.013, n) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("effect", [0.002, 0.01, 0.02])
def test_seeds_needed_is_the_first_number_with_enough_power(effect):
    n = seeds_needed(effect, std=0.015)
    assert paired_power(effect, 0.015, n) >= 0.8
    assert n == 6 or paired_power(effect, 0.015, n - 1) < 0.8


def test_seeds_needed_at_the_edges():
    assert seeds_needed(1.0, std=0.001) == 6  # fewer cannot give p <= 0.05 in the sign-flip test
    assert math.isnan(seeds_needed(0.01, std=math.nan))
    assert seeds_needed(1e-9, std=1.0) == math.inf
    with pytest.raises(ValueError, match="above 0"):
        seeds_needed(0.0, std=1.0)
    with pytest.raises(ValueError, match="expected power as a number above 0 and below 1"):
        seeds_needed(1.0, std=1.0, power=80)


class TestVerdict:
    def test_a_difference_is_named_with_its_direction(self):
        test = paired_test(np.array([0.72, 0.73, 0.71, 0.74, 0.72, 0.73]), np.full(6, 0.70))
        assert verdict("a", "b", test).startswith("a is better than b: +2.50 points (95 % interval +1.40 to +3.60, p")
        assert verdict("a", "b", test, larger_is_better=False).startswith("a is worse than b")

    def test_no_difference_says_what_would_have_shown(self):
        test = PairedTest(mean=0.001, low=-0.005, high=0.007, std=0.0084, n=10, p=0.72)
        effect = 100 * detectable_effect(0.0084, 10)
        sentence = verdict("a", "b", test)
        assert "no difference seen (+0.10 points" in sentence
        assert f"an effect above {effect:.2g} points would have shown (with 80 % probability)" in sentence

    def test_too_few_seeds_give_a_hint_only(self):
        test = paired_test([0.8, 0.81, 0.82, 0.84, 0.84], [0.5, 0.51, 0.52, 0.53, 0.54])
        assert "a seems better than b" in verdict("a", "b", test)
        assert "5 seeds cannot give p below 0.062: run at least 6" in verdict("a", "b", test)

    def test_correction_for_several_looks_is_respected(self):
        test = paired_test([0.8, 0.81, 0.82, 0.84, 0.84, 0.85], [0.5, 0.51, 0.52, 0.53, 0.54, 0.55])
        assert "a is better" in verdict("a", "b", test)
        assert "p = 0.062 after Holm's correction" in verdict("a", "b", test, p_adjusted=0.0625)
        assert "a hint and no finding" in verdict("a", "b", test, p_adjusted=0.0625)

    def test_several_tests_need_more_seeds_and_larger_effects(self):
        test = PairedTest(mean=0.001, low=-0.005, high=0.007, std=0.0084, n=10, p=0.72)
        effect = 100 * detectable_effect(0.0084, 10, alpha=0.05 / 4)
        assert f"an effect above {effect:.2g} points" in verdict("a", "b", test, p_adjusted=1.0, n_tests=4)
        clear = paired_test([0.8, 0.81, 0.82, 0.84, 0.84, 0.85], [0.5, 0.51, 0.52, 0.53, 0.54, 0.55])
        sentence = verdict("a", "b", clear, p_adjusted=4 * clear.p, n_tests=4)
        assert "6 seeds cannot give p below 0.12: run at least 8" in sentence

    def test_what_cannot_be_said(self):
        assert "single seed" in verdict("a", "b", paired_test([0.7], [0.6]))
        assert "no seed was run for both" in verdict("a", "b", paired_test([], []))
        assert "no finite value" in verdict("a", "b", paired_test([0.7, math.nan], [0.6, 0.6]))
        assert "the same score in every run" in verdict("a", "b", paired_test([0.7] * 6, [0.7] * 6))

    def test_other_units(self):
        test = paired_test([1.0, 1.1, 1.2], [0.9, 1.2, 1.2])
        assert "+0.00 of loss" in verdict("a", "b", test, scale=1.0, unit="of loss")


def test_the_exact_test_is_used_up_to_sixteen_pairs():
    differences = np.random.default_rng(3).normal(0.5, 1.0, size=statistics._EXACT_UP_TO)
    p = paired_test(differences, np.zeros_like(differences)).p
    assert (p * 2 ** len(differences)) == pytest.approx(round(p * 2 ** len(differences)), abs=1e-6)
