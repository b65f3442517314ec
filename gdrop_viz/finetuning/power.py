"""Power of the verdict's rule: how small a difference, or how few seeds, it would have found.

The rule, of `gdrop_viz.finetuning.verdict`, asks two things of the n paired differences: Student's interval at
confidence 1 - alpha excludes zero, AND the p-value of the sign-flip test, after Holm's correction for `n_tests` tests,
is at most alpha. Powers are for normal differences and for the strictest place in Holm's order, where p must reach
alpha / n_tests. Up to 12 pairs the rule itself is simulated (with the same draws at every call); above, the sign-flip
test is so near to the t-test that the noncentral t distribution at level alpha / n_tests serves (within 0.02).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from gdrop_viz.base.checks import number, whole

_SIMULATED_UP_TO = 12
_CELLS = 1 << 22  # draws x sign patterns of one simulation, which bounds its time and memory
_MOST_DRAWS = 20_000
_MOST_SEEDS = 1_000_000


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p-value that the sign-flip test of `n` pairs can give, 2 / 2^n.

    >>> smallest_p(6)
    0.03125
    """
    return min(1.0, 2.0 ** (1 - n))


def least_seeds(alpha: float) -> int:
    """Return how many pairs the sign-flip test needs to reach `alpha` at all.

    >>> least_seeds(0.05), least_seeds(0.05 / 4)
    (6, 8)
    """
    return next(n for n in range(2, 100) if smallest_p(n) <= alpha)


def paired_power(
    effect: float, std: float, n: int, *, n_tests: int = 1, alpha: float = 0.05, std_from: int | None = None
) -> float:
    """Return the probability that the rule finds a true difference of `effect` with `n` pairs.

    Parameters
    ----------
    effect, std
        The true mean of the paired differences and their standard deviation, in one unit.
    n, n_tests, alpha
        Pairs; tests that Holm's correction counts; level.
    std_from
        How many differences `std` was estimated from. The power is then averaged over what the true standard deviation
        may be, (std_from - 1) std² / χ² with std_from - 1 degrees of freedom. None: `std` is known.

    Returns
    -------
    float
        NaN with fewer than 2 pairs or an unknown `std`; 0 where 2 / 2^n is above alpha / n_tests.

    >>> round(paired_power(effect=1.0, std=1.0, n=10), 2)
    0.79
    """
    _check(n_tests, alpha)
    if n < 2 or math.isnan(std):
        return math.nan
    if std == 0:
        return float(effect != 0 and smallest_p(n) <= alpha / n_tests)
    return _power(abs(effect) / std, n, n_tests, alpha, std_from)


def detectable_effect(
    std: float, n: int, *, n_tests: int = 1, alpha: float = 0.05, power: float = 0.8, std_from: int | None = None
) -> float:
    """Return the smallest true difference that the rule finds with probability `power`; see `paired_power`.

    Infinite where `n` pairs can find nothing, however large; NaN if `n` < 2 or `std` is unknown.

    >>> round(detectable_effect(std=1.0, n=10), 2)
    1.02
    """
    _check(n_tests, alpha)
    number(power, "power", above=0, below=1)
    if n < 2 or math.isnan(std):
        return math.nan
    return 0.0 if std == 0 else std * _detectable(n, n_tests, alpha, power, std_from)


def seeds_needed(
    effect: float, std: float, *, n_tests: int = 1, alpha: float = 0.05, power: float = 0.8, std_from: int | None = None
) -> float:
    """Return how many seeds find a true difference of `effect` with probability `power`; see `paired_power`.

    Never fewer than the sign-flip test needs to reach `alpha` / `n_tests` at all (6 for 5 %). NaN if `std` is unknown,
    infinite above a million.

    >>> seeds_needed(effect=1.0, std=1.0), seeds_needed(effect=1.0, std=1.0, n_tests=4)
    (11, 15)
    """
    _check(n_tests, alpha)
    number(power, "power", above=0, below=1)
    number(effect, "effect", above=0)
    if math.isnan(std):
        return math.nan

    def enough(n: int) -> bool:
        return detectable_effect(std, n, n_tests=n_tests, alpha=alpha, power=power, std_from=std_from) <= effect

    low = least_seeds(alpha / n_tests)
    if enough(low):
        return low
    high = low
    while not enough(high):
        low, high = high, 2 * high
        if high > 2 * _MOST_SEEDS:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(n_tests: int, alpha: float) -> None:
    whole(n_tests, "n_tests")
    number(alpha, "alpha", above=0, below=1)


@functools.lru_cache(maxsize=512)
def _detectable(n: int, n_tests: int, alpha: float, power: float, std_from: int | None) -> float:
    """Return the detectable effect in standard deviations."""
    from scipy.optimize import brentq

    if smallest_p(n) > alpha / n_tests:
        return math.inf

    def missing(effect: float) -> float:
        return _power(effect, n, n_tests, alpha, std_from) - power

    upper = 1.0
    while missing(upper) < 0:
        upper *= 2
    return float(brentq(missing, 0.0, upper, xtol=1e-4 if n > _SIMULATED_UP_TO else 1e-3))


def _power(effect: float, n: int, n_tests: int, alpha: float, std_from: int | None) -> float:
    """Return the power for an effect in standard deviations."""
    if n > _SIMULATED_UP_TO:
        return _power_of_t(effect, n, alpha / n_tests, std_from)
    noise, spread = _draws(n, std_from)
    return float(_found(effect + spread[:, None] * noise, n_tests, alpha).mean())


def _power_of_t(effect: float, n: int, alpha: float, std_from: int | None) -> float:
    from scipy.stats import chi2, nct, t

    if std_from is None:
        shift = np.array([effect * math.sqrt(n)])
    else:
        free = std_from - 1
        middles = (np.arange(200) + 0.5) / 200
        shift = effect * math.sqrt(n) * np.sqrt(chi2.ppf(middles, free) / free)
    critical = t.ppf(1 - alpha / 2, n - 1)
    # scipy's value of a far tail may be NaN where it is below 1e-10
    tails = np.nan_to_num(nct.cdf(-critical, n - 1, shift)), 1 - np.nan_to_num(nct.cdf(critical, n - 1, shift))
    return float((tails[0] + tails[1]).mean())


@functools.lru_cache(maxsize=32)
def _draws(n: int, std_from: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normal noise (draws, n) and a standard deviation for each draw, in units of the estimated one."""
    rng = np.random.default_rng(0)
    count = min(_MOST_DRAWS, _CELLS >> (n - 1))
    noise = rng.normal(size=(count, n))
    if std_from is None:
        return noise, np.ones(count)
    free = std_from - 1
    return noise, np.sqrt(free / rng.chisquare(free, size=count))


def _found(differences: np.ndarray, n_tests: int, alpha: float) -> np.ndarray:
    """Return, for each row of `differences` (draws, n), whether the rule finds a difference."""
    from scipy.stats import t

    n = differences.shape[1]
    # half of all sign patterns: the other half are their opposites, with the same distance from zero
    patterns = 1.0 - 2.0 * ((np.arange(1 << (n - 1))[:, None] >> np.arange(n)) & 1)
    observed = np.abs(differences.sum(axis=1))
    extreme = (np.abs(differences @ patterns.T) >= observed[:, None] * (1 - 1e-9)).mean(axis=1)
    error = differences.std(axis=1, ddof=1) / math.sqrt(n)
    excludes_zero = np.abs(differences.mean(axis=1)) > t.ppf(1 - alpha / 2, n - 1) * error
    return excludes_zero & (extreme <= alpha / n_tests * (1 + 1e-9))
