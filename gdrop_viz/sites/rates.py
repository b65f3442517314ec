"""Dropout rates: the check of one, and rates between two bounds."""

from __future__ import annotations

from collections.abc import Mapping

from gdrop_viz.base.checks import number


def probability(value: object, what: str) -> float:
    """Return `value`, the rate called `what`, as a float; raise ValueError unless it is a probability below one.

    >>> probability(1.0, "rate")
    Traceback (most recent call last):
    ValueError: expected rate as a number at least 0 and below 1, got 1.0
    """
    return number(value, what, least=0, below=1)


def bounds(lower: object, upper: object) -> tuple[float, float]:
    """Return both as floats; raise ValueError unless they are probabilities in order."""
    low, high = probability(lower, "lower"), probability(upper, "upper")
    if low > high:
        raise ValueError(f"expected lower <= upper, got {low} and {high}; for the opposite order call .reversed()")
    return low, high


def between(lower: float, upper: float, positions: Mapping[str, float]) -> dict[str, float]:
    """Return `upper` at position 0, `lower` at position 1, linear between.

    >>> between(0.0, 0.1, {"a": 0.0, "b": 1.0, "c": 0.5})
    {'a': 0.1, 'b': 0.0, 'c': 0.05}
    """
    # exact at both ends, unlike upper - (upper - lower) * position; rounding must not lead out of the bounds either
    rates = {name: upper * (1.0 - position) + lower * position for name, position in positions.items()}
    return {name: min(max(rate, lower), upper) for name, rate in rates.items()}
