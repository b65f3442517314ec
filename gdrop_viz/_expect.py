"""Was the right kind of object given? One line that names what is expected, what came and where to get it."""

from __future__ import annotations


def expect(value: object, kind: type, what: str, source: str) -> None:
    """Raise TypeError unless `value`, the argument called `what`, is a `kind`; `source` makes one.

    >>> expect("words", dict, "rates", "schedule.rates")
    Traceback (most recent call last):
    TypeError: rates must be a dict, as schedule.rates gives it, got str
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be a {kind.__name__}, as {source} gives it, got {type(value).__name__}")
