"""Statistics of paired comparisons: intervals, the sign-flip permutation test, Holm's correction.

Runs of one seed share training subset, data order and head initialisation, so two arms are compared by the
differences d_s = a_s - b_s over the seeds s. Intervals are Student's; the p-value is that of the sign-flip permutation
test, which assumes only that under "no difference" d_s and -d_s are equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gdrop_viz.base.intervals import student_interval

# up to here all 2^n sign flips are listed; above, this many are drawn (the standard error of p = 0.05 is then 0.0007)
_EXACT_UP_TO = 16
_N_RESAMPLES = 99_999

Values = Sequence[float] | np.ndarray


class PairedTest(NamedTuple):
    """A mean paired difference with its interval, standard deviation, number of pairs and permutation p-value."""

    mean: float
    low: float
    high: float
    std: float
    n: int
    p: float


def paired_test(a: Values, b: Values, *, confidence: float = 0.95) -> PairedTest:
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
        raise ValueError(f"expected paired values as two sequences of one length, got shapes {a.shape} and {b.shape}")
    differences = a - b
    mean, low, high, std, n = student_interval(differences, confidence)
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


def holm(p_values: Values) -> np.ndarray:
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
