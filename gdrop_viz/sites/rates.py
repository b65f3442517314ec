"""What is a valid dropout rate, and how do rates run between two bounds?"""

from __future__ import annotations

from collections.abc import Mapping


def between(lower: float, upper: float, positions: Mapping[str, float]) -> dict[str, float]:
    """Return `upper` at position 0, `lower` at position 1, linear between.

    >>> between(0.0, 0.1, {"a": 0.0, "b": 1.0, "c": 0.5})
    {'a': 0.1, 'b': 0.0, 'c': 0.05}
    """
    # exact at both ends, unlike upper - (upper - lower) * position; rounding must not lead out of the bounds either
    rates = {name: upper * (1.0 - position) + lower * position for name, position in positions.items()}
    return {name: min(max(rate, lower), upper) for name, rate in rates.items()}


def check_rate(what: str, rate: float) -> None:
    """Raise ValueError unless `rate` is a probability below one."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"expected {what} to be a dropout probability in [0, 1), got {rate!r}")


def check_bounds(lower: float, upper: float) -> None:
    """Raise ValueError unless both are probabilities in order."""
    check_rate("lower", lower)
    check_rate("upper", upper)
    if lower > upper:
        raise ValueError(f"expected lower <= upper, got {lower} and {upper}; for the opposite order call .reversed()")


def few(names: list[str], shown: int = 3) -> str:
    """Name the first of many sites or parameters in one line: "a, b, c and 34 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
