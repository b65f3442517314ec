"""Expected calibration error of a classifier: how far its confidence is from its accuracy."""

from __future__ import annotations

import math

import numpy as np

_BINS = 15


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error, Σ_b (n_b / n) |accuracy_b - confidence_b|, between 0 and 1.

    The confidence of a prediction is the largest softmax probability; the bins b are 15 of equal width in (0, 1].
    Source: Guo et al. 2017, "On calibration of modern neural networks".

    Parameters
    ----------
    logits
        (n, classes).
    labels
        (n,), class numbers.

    Returns
    -------
    float
        NaN for logits that are not finite. 0 where every bin's confidence is its accuracy. A sample of a calibrated
        classifier is above 0 by noise alone.

    >>> logits = np.log([[0.8, 0.2]] * 10)
    >>> [round(calibration_error(logits, np.array([0] * right + [1] * (10 - right))), 12) for right in (8, 5)]
    [0.0, 0.3]
    """
    from scipy.special import softmax

    logits = np.asarray(logits, dtype=float)
    if not np.isfinite(logits).all():
        return math.nan
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels)
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
