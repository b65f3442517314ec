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

from gdrop_viz.base.checks import number
from gdrop_viz.base.intervals import student_interval

# up to here all 2^n sign flips are listed; above, this many are drawn (the standard error of p = 0.05 is then 0.0007)
_EXACT_UP_TO = 16
_N_RESAMPLES = 99_999

Values = Sequence[float] | np.ndarray


class PairedTest(NamedTuple):
    """A mean paired difference a - b with its interval, standard deviation, number of pairs and permutation p-value.

    Pairs in which a value is not finite are left out: `diverged_a` and `diverged_b` count those values.
    """

    mean: float
    low: float
    high: float
    std: float
    n: int
    p: float
    diverged_a: int = 0
    diverged_b: int = 0


class RankTest(NamedTuple):
    """How often `a` was better and worse than `b` in `n` pairs, and the p-value of their signed ranks."""

    better: int
    worse: int
    n: int
    p: float


def paired_test(a: Values, b: Values, *, confidence: float = 0.95) -> PairedTest:
    """Compare paired values: mean of a - b, Student's interval, and the two-sided sign-flip permutation p-value.

    p is the share of all 2^n sign patterns whose mean difference is at least as far from zero as the observed one
    (exact up to n = 16, above by 99,999 patterns drawn with a fixed seed). It cannot be below 2 / 2^n: five pairs
    never give p < 0.0625. Only pairs of finite values are compared.

    >>> test = paired_test([3.0, 4.0, 6.0], [2.0, 2.0, 3.0])
    >>> test.mean, round(test.low, 2), test.p
    (2.0, -0.48, 0.25)
    >>> paired_test([3.0, 4.0, 6.0, math.nan], [2.0, 2.0, 3.0, 1.0])[4:]
    (3, 0.25, 1, 0)
    """
    a, b = _pairs(a, b)
    finite = np.isfinite(a) & np.isfinite(b)
    differences = a[finite] - b[finite]
    mean, low, high, std, n = student_interval(differences, confidence)
    diverged = int((~np.isfinite(a)).sum()), int((~np.isfinite(b)).sum())
    return PairedTest(mean, low, high, std, n, _sign_flip_p(differences), *diverged)


def rank_test(a: Values, b: Values, *, larger_is_better: bool = True) -> RankTest:
    """Compare paired values by the signed ranks of their differences; a value that is not finite is the worst of all.

    So a diverged run counts, as a loss by more than any finite difference; two diverged runs of a pair tie. The
    p-value is two-sided, by sign flips of the ranks as in `paired_test`; ties share the mean of their ranks, and pairs
    without a difference keep their ranks but count for neither side. Source: Wilcoxon 1945; for zeros Pratt 1959,
    "Remarks on zeros and ties in the Wilcoxon signed rank procedures".

    >>> rank_test([0.9, 0.8, 0.7, math.nan], [0.8, 0.7, 0.65, 0.2])
    RankTest(better=3, worse=1, n=4, p=0.875)
    """
    from scipy.stats import rankdata

    a, b = _pairs(a, b)
    sign = 1.0 if larger_is_better else -1.0
    a, b = (np.where(np.isfinite(values), sign * values, -np.inf) for values in (a, b))
    differences = np.where(a == b, 0.0, a - np.where(a == b, 0.0, b))
    finite = np.abs(differences[np.isfinite(differences)])
    # differences that tie but for rounding must tie
    differences = np.round(differences / (finite.max(initial=0.0) or 1.0), 12)
    ranks = np.sign(differences) * rankdata(np.abs(differences))
    return RankTest(int((differences > 0).sum()), int((differences < 0).sum()), len(a), _sign_flip_p(ranks))


def equivalence_p(mean: float, std: float, n: int, margin: float) -> float:
    """Return the p-value of two one-sided t-tests for |true mean difference| < `margin`.

    At most 0.05: the 90 % Student interval of the differences lies within (-margin, margin). NaN if `n` < 2. Source:
    Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach".

    >>> round(equivalence_p(mean=0.001, std=0.005, n=10, margin=0.01), 6)
    0.000149
    """
    from scipy.stats import t

    number(margin, "margin", above=0)
    if n < 2 or math.isnan(mean):
        return math.nan
    error = std / math.sqrt(n)
    if error == 0:
        return float(abs(mean) >= margin)
    return float(t.sf((margin - abs(mean)) / error, n - 1))


def _pairs(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected paired values as two sequences of one length, got shapes {a.shape} and {b.shape}")
    return a, b


def _sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of the mean of `differences` under flips of their signs; NaN for fewer than two."""
    from scipy.stats import permutation_test

    n = len(differences)
    if n < 2:
        return math.nan
    scale = np.abs(differences).max() or 1.0

    def mean_of(values: np.ndarray, axis: int = -1) -> np.ndarray:
        # sums taken in another order differ by rounding: patterns that tie must tie, above all around a mean of zero
        return np.round(np.mean(values, axis=axis) / scale, 12)

    resamples = {"n_resamples": np.inf} if n <= _EXACT_UP_TO else {"n_resamples": _N_RESAMPLES, "rng": 0}
    test = permutation_test(
        (differences,), mean_of, permutation_type="samples", vectorized=True, alternative="two-sided", **resamples
    )
    return float(test.pvalue)


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
