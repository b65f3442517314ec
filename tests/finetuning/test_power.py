"""Power is that of the rule which the verdict applies, not of some other test."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from gdrop_viz.finetuning.power import detectable_effect, least_seeds, paired_power, seeds_needed, smallest_p
from gdrop_viz.finetuning.statistics import holm, paired_test


def found_by_the_verdict(differences, n_tests):
    """Whether interval and corrected p-value both say so, where all other tests of the family have smaller p-values."""
    test = paired_test(differences, np.zeros(len(differences)))
    corrected = holm([test.p, *[1.0] * (n_tests - 1)])[0]
    return (test.low > 0 or test.high < 0) and corrected <= 0.05


@pytest.mark.parametrize(("effect", "n", "n_tests"), [(1.8, 6, 1), (1.5, 7, 2), (1.9, 8, 4), (1.0, 10, 1), (0.0, 8, 1)])
def test_power_against_a_simulation_of_the_verdict(effect, n, n_tests):
    draws = np.random.default_rng(7).normal(effect, 1.0, size=(400, n))
    found = np.mean([found_by_the_verdict(row, n_tests) for row in draws])
    # four standard errors of a share of 400
    assert paired_power(effect, 1.0, n, n_tests=n_tests) == pytest.approx(found, abs=4 * 0.5 / math.sqrt(400))


@pytest.mark.parametrize(("n", "n_tests", "right"), [(6, 1, 1.82), (7, 2, 1.88), (8, 4, 1.90)])
def test_detectable_effects_of_an_independent_audit(n, n_tests, right):
    # in standard deviations; the audit simulated, as we do: two standard errors of 4000 draws are 0.013 of power, and
    # power rises by about 0.5 for each standard deviation there
    assert detectable_effect(1.0, n, n_tests=n_tests) == pytest.approx(right, abs=0.026)


@pytest.mark.parametrize(("n", "n_tests"), [(6, 1), (7, 2), (8, 4)])
def test_where_all_signs_must_agree_the_power_has_a_closed_form(n, n_tests):
    # the smallest p-value is the only one within the level: all n differences above zero, or all below
    assert 2 * smallest_p(n) > 0.05 / n_tests >= smallest_p(n)
    effect = detectable_effect(1.0, n, n_tests=n_tests)
    signs = scipy.stats.norm.cdf(effect) ** n
    assert 0.8 - 3 * 0.4 / math.sqrt(20_000) <= signs <= 0.82, "the interval asks for little more"


@pytest.mark.parametrize(("seeds", "n_tests", "told"), [(6, 1, 0.61), (7, 2, 0.60), (8, 4, 0.61), (10, 1, 0.78)])
def test_the_t_tests_effect_is_not_found_with_the_power_that_it_promises(seeds, n_tests, told):
    critical = scipy.stats.t.ppf(1 - 0.025 / n_tests, seeds - 1)
    effects = np.linspace(0.5, 3, 2501)
    promised = effects[np.searchsorted(scipy.stats.nct.sf(critical, seeds - 1, effects * math.sqrt(seeds)), 0.8)]
    assert paired_power(promised, 1.0, seeds, n_tests=n_tests) == pytest.approx(told, abs=0.025)


@pytest.mark.parametrize(("n", "n_tests"), [(13, 1), (14, 4)])
def test_above_twelve_pairs_the_t_distribution_serves(n, n_tests):
    effect = detectable_effect(1.0, n, n_tests=n_tests)
    draws = np.random.default_rng(3).normal(effect, 1.0, size=(1000, n))
    flips = np.array(list(itertools.product([-1.0, 1.0], repeat=n - 1)))
    flipped = np.abs(draws[:, :-1] @ flips.T + draws[:, -1:])
    p = np.array([(row >= abs(sum_) - 1e-9).mean() for row, sum_ in zip(flipped, draws.sum(axis=1), strict=True)])
    t_test = scipy.stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    found = np.mean((p <= 0.05 / n_tests) & (t_test < 0.05))
    # the approximation's own 0.02, and four standard errors of a share of 1000 near 0.8
    assert found == pytest.approx(0.8, abs=0.02 + 4 * 0.4 / math.sqrt(1000))


def test_an_estimated_spread_asks_for_more():
    """The true power, if sigma is drawn from what the estimate leaves open, is the promised one on average."""
    effect = detectable_effect(1.0, 8, std_from=8)
    assert effect > detectable_effect(1.0, 8)
    rng = np.random.default_rng(5)
    sigma = np.sqrt(7 / rng.chisquare(7, size=800))
    found = np.mean([found_by_the_verdict(row, 1) for row in effect + sigma[:, None] * rng.normal(size=(800, 8))])
    assert found == pytest.approx(0.8, abs=4 * 0.4 / math.sqrt(800))
    assert detectable_effect(1.0, 30, std_from=10) > detectable_effect(1.0, 30, std_from=1000)
    assert detectable_effect(1.0, 30, std_from=10**6) == pytest.approx(detectable_effect(1.0, 30), rel=1e-3)


def test_power_depends_on_effect_over_std_only():
    assert paired_power(0.01, 0.02, 9) == pytest.approx(paired_power(1.0, 2.0, 9))
    assert paired_power(-1.0, 2.0, 20) == pytest.approx(paired_power(1.0, 2.0, 20))
    assert paired_power(100.0, 0.1, 20) == 1.0


@pytest.mark.parametrize("n", [6, 9, 20])
def test_detectable_effect_has_the_promised_power(n):
    effect = detectable_effect(0.013, n, power=0.8)
    # up to 12 pairs a share of simulated draws, which moves in steps
    assert paired_power(effect, 0.013, n) == pytest.approx(0.8, abs=1e-3)


def test_too_few_pairs_detect_nothing():
    assert detectable_effect(1.0, 5) == math.inf
    assert detectable_effect(1.0, 6, n_tests=2) == math.inf
    assert paired_power(100.0, 1.0, 5) == paired_power(100.0, 0.0, 5) == 0.0
    assert math.isnan(detectable_effect(1.0, 1))


@pytest.mark.parametrize(("effect", "n_tests"), [(0.01, 1), (0.02, 1), (0.02, 4), (0.002, 2)])
def test_seeds_needed_is_the_first_number_with_enough_power(effect, n_tests):
    n = seeds_needed(effect, std=0.015, n_tests=n_tests)
    assert paired_power(effect, 0.015, n, n_tests=n_tests) >= 0.8
    assert n == least_seeds(0.05 / n_tests) or paired_power(effect, 0.015, n - 1, n_tests=n_tests) < 0.8


def test_seeds_needed_at_the_edges():
    assert seeds_needed(1.0, std=0.001) == 6  # fewer cannot give p <= 0.05 in the sign-flip test
    assert seeds_needed(1.0, std=0.001, n_tests=4) == 8  # nor p <= 0.05 / 4
    assert math.isnan(seeds_needed(0.01, std=math.nan))
    assert seeds_needed(1e-9, std=1.0) == math.inf
    with pytest.raises(ValueError, match="above 0"):
        seeds_needed(0.0, std=1.0)
    with pytest.raises(ValueError, match="expected power as a number above 0 and below 1"):
        seeds_needed(1.0, std=1.0, power=80)
