"""How sure is a difference between two arms, and how small a one would have been seen?

Runs of one seed share training subset, data order and head initialisation, so two arms are compared by the
differences d_s = a_s - b_s over the seeds s. Intervals are Student's; the p-value is that of the sign-flip permutation
test, which assumes only that under "no difference" d_s and -d_s are equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# up to here all 2^n sign flips are listed; above, this many are drawn (the standard error of p = 0.05 is then 0.0007)
_EXACT_UP_TO = 16
_N_RESAMPLES = 99_999


class Interval(NamedTuple):
    """A mean with its confidence interval [low, high], the sample standard deviation and the number of values."""

    mean: float
    low: float
    high: float
    std: float
    n: int


class PairedTest(NamedTuple):
    """A mean paired difference with its interval, standard deviation, number of pairs and permutation p-value."""

    mean: float
    low: float
    high: float
    std: float
    n: int
    p: float


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return mean ± t(n - 1) s / √n, Student's interval for the mean of independent values.

    With fewer than two values nothing is known of their spread: `low`, `high` and `std` are NaN.

    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> interval.mean, round(interval.low, 2), round(interval.high, 2)
    (2.0, -0.48, 4.48)
    >>> mean_interval([1.0]).low
    nan
    """
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Interval(float(array[0]) if n else math.nan, math.nan, math.nan, math.nan, n)
    mean, std = float(array.mean()), float(array.std(ddof=1))
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, std, n)


def paired_test(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> PairedTest:
    """Compare paired values: mean of a - b, Student's interval, and the two-sided sign-flip permutation p-value.

    p is the share of all 2^n sign patterns whose mean difference is at least as far from zero as the observed one
    (exact up to n = 16, above by 99,999 patterns drawn with a fixed seed). It cannot be below 2 / 2^n: five pairs
    never give p < 0.0625.

    >>> test = paired_test([3.0, 4.0, 6.0], [2.0, 2.0, 3.0])
    >>> test.mean, round(test.low, 2), test.p
    (2.0, -0.48, 0.25)
    """
    from scipy.stats import permutation_test

    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values must be two sequences of one length, got shapes {a.shape} and {b.shape}")
    differences = a - b
    mean, low, high, std, n = mean_interval(differences, confidence=confidence)
    if n < 2 or not np.isfinite(differences).all():
        return PairedTest(mean, low, high, std, n, math.nan)
    scale = np.abs(differences).max() or 1.0

    def mean_of(values: np.ndarray, axis: int = -1) -> np.ndarray:
        # sums taken in another order differ by rounding: patterns that tie must tie, above all around a mean of zero
        return np.round(np.mean(values, axis=axis) / scale, 12)

    resamples = {"n_resamples": np.inf} if n <= _EXACT_UP_TO else {"n_resamples": _N_RESAMPLES, "rng": 0}
    test = permutation_test(
        (differences,), mean_of, permutation_type="samples", vectorized=True, alternative="two-sided", **resamples
    )
    return PairedTest(mean, low, high, std, n, float(test.pvalue))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return Holm's adjusted p-values: compared with 5 %, they keep the risk of ANY false finding at 5 %.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure". NaN stays NaN and is not counted.

    >>> [round(float(p), 10) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full_like(p_values, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return adjusted


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p-value that the sign-flip test of `n` pairs can give, 2 / 2^n.

    >>> smallest_p(6)
    0.03125
    """
    return min(1.0, 2.0 ** (1 - n))


def paired_power(effect: float, std: float, n: int, *, alpha: float = 0.05) -> float:
    """Return the probability that a paired t-test of `n` pairs finds a true difference of `effect`.

    `std` is the standard deviation of the paired differences. Two-sided, by the noncentral t distribution.

    >>> round(paired_power(effect=1.0, std=1.0, n=10), 3)
    0.803
    """
    from scipy.stats import nct, t

    if n < 2 or math.isnan(std):
        return math.nan
    if std == 0:
        return float(effect != 0)
    critical, shift = t.ppf(1 - alpha / 2, n - 1), abs(effect) / std * math.sqrt(n)
    # scipy's value of the far tail may be NaN where it is below 1e-10
    far = float(np.nan_to_num(nct.cdf(-critical, n - 1, shift)))
    return float(nct.sf(critical, n - 1, shift)) + far


def detectable_effect(std: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that `n` pairs find with probability `power`; NaN if `n` < 2.

    >>> round(detectable_effect(std=1.0, n=10), 2)
    1.0
    """
    from scipy.optimize import brentq

    _check_shares(alpha=alpha, power=power)
    if n < 2 or math.isnan(std):
        return math.nan
    if std == 0:
        return 0.0
    upper = 1.0
    while paired_power(upper, 1.0, n, alpha=alpha) < power:
        upper *= 2
    return std * float(brentq(lambda effect: paired_power(effect, 1.0, n, alpha=alpha) - power, 0.0, upper))


def seeds_needed(effect: float, std: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return how many seeds find a true difference of `effect` with probability `power`.

    Never fewer than the sign-flip test needs to reach `alpha` at all (6 for 5 %). NaN if `std` is unknown, infinite
    above a million.

    >>> seeds_needed(effect=1.0, std=1.0), seeds_needed(effect=0.5, std=1.0)
    (10, 34)
    """
    _check_shares(alpha=alpha, power=power)
    if not effect > 0:
        raise ValueError(f"effect must be a difference above zero, in units of the metric, got {effect}")
    if math.isnan(std):
        return math.nan
    low = _least_seeds(alpha)
    if paired_power(effect, std, low, alpha=alpha) >= power:
        return low
    high = low
    while paired_power(effect, std, high, alpha=alpha) < power:
        low, high = high, 2 * high
        if high > 2_000_000:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if paired_power(effect, std, middle, alpha=alpha) < power else (low, middle)
    return high


def verdict(
    a: str,
    b: str,
    test: PairedTest,
    *,
    p_adjusted: float | None = None,
    n_tests: int = 1,
    scale: float = 100.0,
    unit: str = "points",
    larger_is_better: bool = True,
    alpha: float = 0.05,
    power: float = 0.8,
) -> str:
    """Say in one plain sentence what a paired comparison has shown.

    A difference counts as seen if its interval excludes zero and its permutation p-value (after Holm's correction, if
    given) is at most `alpha`. If only the interval excludes zero it is called a hint. Otherwise the sentence says
    how large a difference would have been found with probability `power`, at the level `alpha / n_tests` that the
    strictest of `n_tests` corrected tests must reach.

    >>> print(verdict("guided", "standard", paired_test([0.71, 0.70, 0.72, 0.69], [0.70, 0.70, 0.71, 0.70])))
    guided and standard: no difference seen (+0.25 points, 95 % interval -1.27 to +1.77, p = 1, 4 seeds); ...
    """
    if test.n == 0:
        return f"{a} and {b}: no seed was run for both, so nothing can be said"
    if math.isnan(test.mean):
        return f"{a} and {b}: a run has no finite value (it diverged or predicts a constant), so nothing can be said"
    mean, least = f"{scale * test.mean:+.2f} {unit}", _least_seeds(alpha / n_tests)
    if test.n == 1:
        return (
            f"{a} and {b}: {mean} with a single seed, whose spread is unknown: no interval, no p-value; run at least "
            f"{least} seeds"
        )
    p = test.p if p_adjusted is None else p_adjusted
    corrected = "" if p_adjusted is None or math.isclose(p, test.p) else " after Holm's correction"
    facts = f"95 % interval {scale * test.low:+.2f} to {scale * test.high:+.2f}, p = {p:.2g}{corrected}, {test.n} seeds"
    better = "better" if (test.mean > 0) == larger_is_better else "worse"
    excludes_zero = test.low > 0 or test.high < 0
    if excludes_zero and p <= alpha:
        return f"{a} is {better} than {b}: {mean} ({facts})"
    if excludes_zero:
        why = (
            f"{test.n} seeds cannot give p below {smallest_p(test.n) * n_tests:.2g}: run at least {least}"
            if test.n < least
            else f"p is not below {alpha:g}: run more seeds"
        )
        return f"{a} seems {better} than {b}: {mean} ({facts}), a hint and no finding, since {why}"
    if test.std == 0 == test.mean:
        return f"{a} and {b}: the same score in every run ({test.n} seeds), so what would have shown is unknown"
    effect = scale * detectable_effect(test.std, test.n, alpha=alpha / n_tests, power=power)
    only_hint = f", and only as a hint: run at least {least} seeds" if test.n < least else ""
    return (
        f"{a} and {b}: no difference seen ({mean}, {facts}); an effect above {effect:.2g} {unit} would have shown "
        f"(with {100 * power:.0f} % probability{only_hint})"
    )


def _least_seeds(alpha: float) -> int:
    return next(n for n in range(2, 100) if smallest_p(n) <= alpha)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {share}")
