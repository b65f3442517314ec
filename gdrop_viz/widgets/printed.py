"""What a background thread prints or warns, handed to its panel: elsewhere it would land under any cell that runs."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_lock = threading.Lock()
_listeners: dict[int, Callable[[str], object]] = {}  # by thread
_before: list[Any] = []  # what was there: stdout, stderr, showwarning


@contextmanager
def heard(listener: Callable[[str], object]) -> Iterator[None]:
    """Hand all that this thread prints to stdout and stderr, or warns, to `listener`; other threads are left alone.

    >>> lines = []
    >>> with heard(lines.append):
    ...     print("half", "done")
    >>> "".join(lines)
    'half done\\n'
    """
    me = threading.get_ident()
    with _lock:
        if not _listeners:
            _before[:] = sys.stdout, sys.stderr, warnings.showwarning
            sys.stdout, sys.stderr = _ByThread(sys.stdout), _ByThread(sys.stderr)
            warnings.showwarning = _showwarning
        _listeners[me] = listener
    try:
        yield
    finally:
        with _lock:
            del _listeners[me]
            if not _listeners:
                # somebody else's stream that was put in place meanwhile stays
                sys.stdout = _before[0] if isinstance(sys.stdout, _ByThread) else sys.stdout
                sys.stderr = _before[1] if isinstance(sys.stderr, _ByThread) else sys.stderr
                if warnings.showwarning is _showwarning:
                    warnings.showwarning = _before[2]


class _ByThread:
    """A text stream that hands the writing of threads with a listener to it, and everything else on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        listener = _listeners.get(threading.get_ident())
        if listener is None:
            return self._stream.write(text)
        listener(text)
        return len(text)

    def flush(self) -> None:
        if threading.get_ident() not in _listeners:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _showwarning(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any, **named: Any) -> None:
    listener = _listeners.get(threading.get_ident())
    if listener is None:
        _before[2](message, category, filename, lineno, *rest, **named)
    else:
        listener(f"{category.__name__}: {message}\n")
