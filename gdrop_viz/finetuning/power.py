"""Power of paired comparisons: how small a difference, or how few seeds, a test would have found."""

from __future__ import annotations

import math

import numpy as np

from gdrop_viz.base.checks import number


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p-value that the sign-flip test of `n` pairs can give, 2 / 2^n.

    >>> smallest_p(6)
    0.03125
    """
    return min(1.0, 2.0 ** (1 - n))


def least_seeds(alpha: float) -> int:
    """Return how many pairs the sign-flip test needs to reach `alpha` at all.

    >>> least_seeds(0.05)
    6
    """
    return next(n for n in range(2, 100) if smallest_p(n) <= alpha)


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

    number(alpha, "alpha", above=0, below=1)
    number(power, "power", above=0, below=1)
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
    number(alpha, "alpha", above=0, below=1)
    number(power, "power", above=0, below=1)
    number(effect, "effect", above=0)
    if math.isnan(std):
        return math.nan
    low = least_seeds(alpha)
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
