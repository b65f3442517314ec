"""Metrics of predictions: the measures that GLUE uses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

CLASSIFICATION = ("accuracy", "f1", "matthews")
REGRESSION = ("pearson", "spearman", "mse")


def compute(metrics: Iterable[str], predictions: Any, labels: Any) -> dict[str, float]:
    """Return each named metric of `predictions` (N,) against `labels` (N,), both class numbers or real numbers.

    "accuracy"; "f1" (of class 1 as in GLUE; with more than two classes the unweighted mean over the classes);
    "matthews" (correlation of Matthews 1975); "pearson", "spearman"; "mse" (mean squared error, lower is better).
    Constant predictions correlate with nothing: their Matthews, Pearson and Spearman are 0. Where the labels are
    constant, Pearson and Spearman are undefined: NaN.

    >>> compute(["accuracy", "matthews"], [1, 1, 0], [1, 0, 0])
    {'accuracy': 0.666..., 'matthews': 0.5}
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"expected as many predictions as labels, at least one, got {predictions.shape} and {labels.shape}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constant input, whose values are defined above
        return {name: float(_function(name)(labels, predictions)) for name in metrics}


def _function(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    from scipy import stats
    from sklearn import metrics

    return {
        "accuracy": metrics.accuracy_score,
        "f1": _f1,
        "matthews": metrics.matthews_corrcoef,
        "pearson": lambda labels, predictions: _correlation(stats.pearsonr, labels, predictions),
        "spearman": lambda labels, predictions: _correlation(stats.spearmanr, labels, predictions),
        "mse": metrics.mean_squared_error,
    }[name]


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    binary = max(labels.max(), predictions.max()) <= 1
    return f1_score(labels, predictions, average="binary" if binary else "macro", zero_division=0)


def _correlation(function: Callable[..., Any], labels: np.ndarray, predictions: np.ndarray) -> float:
    if len(labels) < 2 or np.ptp(labels) == 0:
        return math.nan
    return 0.0 if np.ptp(predictions) == 0 else function(labels, predictions).statistic
