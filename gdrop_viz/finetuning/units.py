"""Units of metrics and data fractions, as people read them."""

from __future__ import annotations

# metrics in [-1, 1] are read in points, as the papers print them; anything else in its own unit
_IN_POINTS = (
    *("accuracy", "f1", "matthews", "pearson", "spearman", "precision", "recall", "auc", "calibration_error"),
)
_SMALLER_IS_BETTER = ("loss", "error", "mse", "mae")


def in_points(metric: str) -> bool:
    """Return whether people read `metric` in points: times 100, as the papers print it.

    >>> in_points("accuracy"), in_points("calibration_error"), in_points("loss")
    (True, True, False)
    """
    return metric.startswith(_IN_POINTS)


def larger_is_better(metric: str) -> bool:
    """Return whether a larger value of `metric` is a better one.

    >>> larger_is_better("accuracy"), larger_is_better("calibration_error"), larger_is_better("loss")
    (True, False, False)
    """
    return not metric.endswith(_SMALLER_IS_BETTER)


def percent(fraction: float) -> str:
    """Write a data fraction for people.

    >>> percent(0.25), percent(1.0), percent(0.005)
    ('25 %', '100 %', '0.5 %')
    """
    return f"{100 * fraction:g} %"
