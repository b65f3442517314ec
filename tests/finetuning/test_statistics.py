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
from gdrop_viz.finetuning.power import detectable_effect, smallest_p
from gdrop_viz.finetuning.statistics import PairedTest, equivalence_p, holm, paired_test, rank_test
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
    assert math.isnan(paired_test([0.7], [0.6]).p)
    with pytest.raises(ValueError, match="one length"):
        paired_test([1.0, 2.0], [1.0])


def test_diverged_runs_are_counted_and_the_finite_pairs_tested():
    a = [0.7, 0.8, math.nan, 0.9, 0.75, math.inf]
    b = [0.6, 0.6, 0.5, 0.6, math.nan, math.nan]
    test = paired_test(a, b)
    alone = paired_test([0.7, 0.8, 0.9], [0.6, 0.6, 0.6])
    assert test[:6] == alone[:6]
    assert (test.n, test.diverged_a, test.diverged_b) == (3, 2, 2)
    assert paired_test([math.nan], [1.0])[4:] == pytest.approx((0, math.nan, 1, 0), nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_against_scipys_exact_signed_rank_test(seed):
    # few values, so that there are ties and pairs without a difference; whole ones, since scipy's ties are exact
    a, b = np.random.default_rng(seed).integers(0, 6, size=(2, 9))
    expected = scipy.stats.wilcoxon(a, b, zero_method="pratt", method=scipy.stats.PermutationMethod()).pvalue
    test = rank_test(a, b)
    assert test.p == pytest.approx(expected, abs=1e-12)
    assert (test.better, test.worse, test.n) == ((a > b).sum(), (a < b).sum(), 9)


def test_in_ranks_a_diverged_run_is_the_worst():
    b = np.array([0.70, 0.71, 0.69, 0.72, 0.70, 0.73])
    a = b + 0.05
    assert rank_test(a, b)[:3] == (6, 0, 6)
    a[:3] = math.nan
    test = rank_test(a, b)
    # -4 - 5 - 6 (the failures share ranks 4 to 6) against +1 +2 +3 (ties share 2)
    assert (test.better, test.worse) == (3, 3)
    flips = np.array(list(itertools.product([-1, 1], repeat=6))) @ np.array([2, 2, 2, 5, 5, 5])
    assert test.p == pytest.approx(np.mean(np.abs(flips) >= 9))
    losses = rank_test(1 - a, 1 - b, larger_is_better=False)
    assert losses == test, "of a loss the largest is the worst"
    assert rank_test([math.nan, 1.0], [math.inf, 1.0])[:2] == (0, 0), "two failures tie"


@pytest.mark.parametrize(("mean", "std", "n"), [(0.0, 0.01, 10), (-0.004, 0.006, 7), (0.02, 0.01, 12)])
def test_equivalence_is_two_one_sided_t_tests(mean, std, n):
    noise = np.random.default_rng(0).normal(size=n)
    values = mean + std * (noise - noise.mean()) / noise.std(ddof=1)
    above = scipy.stats.ttest_1samp(values, -0.01, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(values, 0.01, alternative="less").pvalue
    p = equivalence_p(mean, std, n, 0.01)
    assert p == pytest.approx(max(above, below), rel=1e-9)
    # at 5 % the same as the 90 % interval within the margin
    interval = student_interval(values, 0.9)
    assert (p <= 0.05) == (interval.low > -0.01 and interval.high < 0.01)


def test_equivalence_at_the_edges():
    assert math.isnan(equivalence_p(0.0, math.nan, 1, 0.01))
    assert equivalence_p(0.0, 0.0, 5, 0.01) == 0.0
    assert equivalence_p(0.01, 0.0, 5, 0.01) == 1.0
    with pytest.raises(ValueError, match="expected margin as a number above 0"):
        equivalence_p(0.0, 1.0, 5, 0.0)


def test_equivalence_errs_as_seldom_as_it_says():
    # the truth lies on the margin, the worst case: at most 5 % of the draws may call it smaller
    draws = np.random.default_rng(0).normal(0.01, 0.005, size=(4000, 8))
    said = [equivalence_p(row.mean(), row.std(ddof=1), 8, 0.01) <= 0.05 for row in draws]
    assert np.mean(said) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


def test_holm_against_its_definition():
    p = np.array([0.011, 0.02, 0.5, 0.04])
    # step by step: 4 * 0.011, 3 * 0.02, 2 * 0.04, 1 * 0.5, each at least its forerunner
    np.testing.assert_allclose(holm(p), [0.044, 0.06, 0.5, 0.08])
    assert np.isnan(holm([np.nan, 0.01])).tolist() == [True, False]
    assert holm([np.nan, 0.01])[1] == 0.01


class TestVerdict:
    def test_a_difference_is_named_with_its_direction(self):
        test = paired_test(np.array([0.72, 0.73, 0.71, 0.74, 0.72, 0.73]), np.full(6, 0.70))
        assert verdict("a", "b", test).startswith("a is better than b: +2.50 points (95 % interval +1.40 to +3.60, p")
        assert verdict("a", "b", test, larger_is_better=False).startswith("a is worse than b")

    def test_no_difference_says_what_would_have_shown(self):
        test = PairedTest(mean=0.001, low=-0.005, high=0.007, std=0.0084, n=10, p=0.72)
        effect = 100 * detectable_effect(0.0084, 10, std_from=10)
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
        effect = 100 * detectable_effect(0.0084, 10, n_tests=4, std_from=10)
        assert f"an effect above {effect:.2g} points" in verdict("a", "b", test, p_adjusted=1.0, n_tests=4)
        clear = paired_test([0.8, 0.81, 0.82, 0.84, 0.84, 0.85], [0.5, 0.51, 0.52, 0.53, 0.54, 0.55])
        sentence = verdict("a", "b", clear, p_adjusted=4 * clear.p, n_tests=4)
        assert "6 seeds cannot give p below 0.12: run at least 8" in sentence

    def test_what_cannot_be_said(self):
        assert "single seed" in verdict("a", "b", paired_test([0.7], [0.6]))
        assert "no seed was run for both" in verdict("a", "b", paired_test([], []))
        none = verdict("a", "b", paired_test([math.nan, 0.7], [0.6, math.nan]))
        assert "no seed gave both a finite value, so nothing can be said of their mean difference" in none
        assert "left out: 1 run of a and 1 run of b without a finite value" in none
        assert "the same score in every run" in verdict("a", "b", paired_test([0.7] * 6, [0.7] * 6))

    def test_one_diverged_seed_does_not_erase_the_row(self):
        b = np.array([0.70, 0.71, 0.72, 0.69, 0.70, 0.71, 0.70])
        a = b + np.array([0.02, 0.03, 0.02, 0.04, 0.03, 0.02, math.nan])
        sentence = verdict("a", "b", paired_test(a, b), ranks=rank_test(a, b))
        assert sentence.startswith("a is better than b: +2.67 points")
        assert "6 seeds" in sentence
        p = rank_test(a, b).p
        told = f"better in 6 and worse in 1 of 7 seeds (rank test, p = {p:.2g})"
        assert sentence.endswith(
            f"left out: 1 run of a without a finite value (diverged); counted as the worst, they leave a {told}"
        )

    def test_equivalence(self):
        near = PairedTest(mean=0.001, low=-0.002, high=0.004, std=0.0042, n=10, p=0.5)
        p = equivalence_p(0.001, 0.0042, 10, 0.01)
        excluded = f"; a difference larger than 1 point is excluded (two one-sided tests, p = {p:.2g}); an effect above"
        assert excluded in verdict("a", "b", near, margin=0.01)
        assert "whether it is larger than 0.1 points is undecided" in verdict("a", "b", near, margin=0.001)
        assert "is undecided" in verdict("a", "b", near, margin=0.01, p_equivalent=0.06)
        assert "one-sided" not in verdict("a", "b", near)
        small = PairedTest(mean=0.003, low=0.001, high=0.005, std=0.0028, n=10, p=0.01)
        sentence = verdict("a", "b", small, margin=0.01)
        assert sentence.startswith("a is better than b: +0.30 points")
        assert "larger than 1 point is excluded" in sentence

    def test_too_few_seeds_could_show_nothing(self):
        test = paired_test([0.8, 0.5, 0.82, 0.5, 0.84], [0.5, 0.81, 0.52, 0.83, 0.54])
        assert verdict("a", "b", test).endswith("; 5 seeds can show a difference only as a hint: run at least 6")

    def test_other_units(self):
        test = paired_test([1.0, 1.1, 1.2], [0.9, 1.2, 1.2])
        assert "+0.00 of loss" in verdict("a", "b", test, scale=1.0, unit="of loss")


def test_the_exact_test_is_used_up_to_sixteen_pairs():
    differences = np.random.default_rng(3).normal(0.5, 1.0, size=statistics._EXACT_UP_TO)
    p = paired_test(differences, np.zeros_like(differences)).p
    assert (p * 2 ** len(differences)) == pytest.approx(round(p * 2 ** len(differences)), abs=1e-6)
