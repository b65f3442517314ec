"""Whole measurements: a part that Ctrl-C has cut short is never taken for one."""

from __future__ import annotations


def whole(complete: bool) -> None:
    """Raise KeyboardInterrupt unless a measurement is `complete`; what is done of it is on disk."""
    if not complete:
        raise KeyboardInterrupt("stopped; what is done is kept, the same call goes on from there")
