"""Standard errors and confidence intervals of means, ratios of sums and rank correlations; Spearman's correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gdrop_viz.base.checks import number

_RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean with its confidence interval [low, high], the sample standard deviation and the number of values."""

    mean: float
    low: float
    high: float
    std: float
    n: int


def student_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Return mean ± t(n - 1) s / √n, Student's interval for the mean of independent values.

    Parameters
    ----------
    values
        (n,), in any unit: that of the result.
    confidence
        The share of such intervals that hold the true mean, if the values are normal.

    Returns
    -------
    Interval
        With fewer than two values nothing is known of their spread: `low`, `high` and `std` are NaN.

    Raises
    ------
    ValueError
        For a confidence outside (0, 1).

    >>> interval = student_interval([1.0, 2.0, 3.0])
    >>> interval.mean, round(interval.low, 2), round(interval.high, 2)
    (2.0, -0.48, 4.48)
    >>> student_interval([1.0]).low
    nan
    """
    from scipy.stats import t

    number(confidence, "confidence", above=0, below=1)
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Interval(float(array[0]) if n else math.nan, math.nan, math.nan, math.nan, n)
    mean, std = float(array.mean()), float(array.std(ddof=1))
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, std, n)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation along the last axis; equal values share the mean of their ranks.

    Parameters
    ----------
    a, b
        (..., G): two orders of G groups, or a stack of them.

    Returns
    -------
    ndarray
        (...): between -1 and 1; NaN where all values of one are equal, which is no order.

    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.3, 0.2])))
    0.5
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=-1) for values in (a, b)]
    x, y = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=-1) / np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))


def mean_with_errors(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, standard error over sequences, and the part of it that probes make; `values` is (N, P).

    Sequences are independent, and so are their probes: the variance between the sequences' means, over N, is that of
    the mean as it is, chance of text and probes together; the variance within sequences, over N·P, is the probes'
    part (0 is not known from one probe: NaN).
    """
    n, probes = values.shape
    error = values.mean(axis=1).std(ddof=1) / np.sqrt(n)
    within = np.sqrt(values.var(axis=1, ddof=1).mean() / (n * probes)) if probes > 1 else np.nan
    return float(values.mean()), float(error), float(within)


def ratio_of_sums(traces: np.ndarray, scores: np.ndarray, *, probe_error: float | None = None) -> dict[str, float]:
    """Return R = Σ traces / Σ scores over sequences with its errors; both (N, ...), one value for each sequence.

    Both sums are of the same sequences, and both are uncertain: by linearisation (Cochran, Sampling Techniques, 3rd
    ed., section 6.4) R's standard error is that of the mean of d_n = (t_n - R f_n) / mean f. `probe_error`, the part
    of the mean trace's error that probes make, gives theirs in R: over mean f; the rest, in squares, is the text's.
    low and high: a 95 % interval, BCa bootstrap over sequences (Efron 1987), which follows the skew of a ratio.

    >>> found = ratio_of_sums(np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0]), probe_error=0.1)
    >>> {name: round(found[name], 3) for name in ("ratio", "standard_error", "probe_error")}
    {'ratio': 2.5, 'standard_error': 0.382, 'probe_error': 0.05}
    """
    traces, scores = traces.reshape(-1), scores.reshape(-1)
    ratio = traces.sum() / scores.sum()
    error = ((traces - ratio * scores) / scores.mean()).std(ddof=1) / np.sqrt(len(scores))
    probes = np.nan if probe_error is None else probe_error / scores.mean()
    low, high = _bca(traces, scores)
    found = {"ratio": ratio, "standard_error": error, "probe_error": probes}
    # max keeps a NaN as its first argument
    found |= {"text_error": np.sqrt(max(error**2 - probes**2, 0.0)), "low": low, "high": high}
    return {name: float(value) for name, value in found.items()}


def rank_agreement(traces: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return the Spearman correlation over groups of the sequences' mean `traces` and `scores`, both (N, G).

    low and high come from a bootstrap over whole sequences (all groups of a sequence stay together). The chance of
    the text blurs both orders, and so lowers their correlation; a resample blurs a second time. So the bare
    percentiles lie too low, and their reflection at the estimate (on Fisher's z scale) allows for as much loss in the
    estimate itself. The interval given spans both. Drawing sequences from those of a bundled model, it held the
    correlation of all over places in 99 % (bert-mini), 96 % (gpt2-mini) and 83 % (t5-mini, where the places differ
    little and the noise is large) of the draws of 128 sequences, in 72 % of those of 32 (gpt2-mini): from few
    sequences take the estimate for a lower bound. NaN for fewer than four groups, or where all are equal.
    """
    n, groups = scores.shape
    estimate = float(spearman(traces.mean(axis=0), scores.mean(axis=0)))
    if groups < 4 or np.isnan(estimate):
        return {"rank_correlation": estimate, "low": np.nan, "high": np.nan}
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n
    resampled = spearman(weights @ traces, weights @ scores)
    # two neighbours swapped cost 12 / (G³ - G): what lies nearer to ±1 than half of that is ±1
    most = 1 - 6 / (groups**3 - groups)
    ends = np.nanquantile(resampled, [0.025, 0.975])
    centre, (lower, upper) = np.arctanh(np.clip(estimate, -most, most)), np.arctanh(np.clip(ends, -most, most))
    reflected = np.tanh([2 * centre - upper, 2 * centre - lower])
    low, high = min(ends[0], reflected[0]), max(ends[1], reflected[1])
    return {"rank_correlation": estimate, "low": float(low), "high": float(high)}


def _bca(traces: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    from scipy.stats import bootstrap

    if np.ptp(traces / scores) <= 1e-12 * np.abs(traces / scores).max():  # nothing varies: BCa is 0 / 0 there
        return float(traces.sum() / scores.sum()), float(traces.sum() / scores.sum())
    found = bootstrap(
        (traces, scores), lambda t, f, axis: t.sum(axis=axis) / f.sum(axis=axis), paired=True, vectorized=True,
        n_resamples=_RESAMPLES, confidence_level=0.95, method="BCa", random_state=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
