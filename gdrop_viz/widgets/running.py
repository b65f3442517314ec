"""Background runs that do not block the kernel, their throttle and their remaining time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Runner:
    """One job at a time in a background thread, with a Stop that the job polls.

    The job is called with a `threading.Event` and should return soon after it is set. What it raises is handed to
    `on_error`; `on_end` follows always. All of them run in the job's thread, so they may set widget traits but must
    neither print nor enter an `Output`.

    >>> heard = []
    >>> runner = Runner(on_end=lambda: heard.append("end"), on_error=lambda error: heard.append(str(error)))
    >>> runner.start(lambda stop: 1 / 0)
    >>> runner.wait(5), heard
    (True, ['division by zero', 'end'])
    """

    def __init__(self, *, on_end: Callable[[], object], on_error: Callable[[BaseException], object]) -> None:
        self._on_end = on_end
        self._on_error = on_error
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._running = False

    @property
    def running(self) -> bool:
        """Whether a job is at work; false already while `on_end` is called."""
        return self._running

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop but still finishes its batch."""
        return self._running and self._stop.is_set()

    def start(self, job: Callable[[threading.Event], object]) -> None:
        """Begin `job`; raises RuntimeError while another one runs."""
        if self._running:
            raise RuntimeError("a run is still at work: stop it, or wait for its end, before the next one")
        self._stop = stop = threading.Event()
        self._running = True
        # a daemon: a kernel that shuts down does not wait for a training
        self._thread = threading.Thread(target=self._work, args=(job, stop), name="gdrop_viz run", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the job to stop; returns at once."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the job and of `on_end`; returns whether both are over."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return not self._running

    def _work(self, job: Callable[[threading.Event], object], stop: threading.Event) -> None:
        try:
            job(stop)
        except BaseException as error:
            self._on_error(error)
        finally:
            self._running = False
            self._on_end()


class Throttle:
    """Lets through at most one update per `seconds`: a browser redrawn more often only lags behind.

    >>> throttle = Throttle(seconds=60)
    >>> throttle.ready(), throttle.ready(), throttle.ready(always=True)
    (True, False, True)
    """

    def __init__(self, seconds: float = 1 / 6) -> None:
        self._seconds = seconds
        self._last = float("-inf")

    def ready(self, *, always: bool = False) -> bool:
        """Whether an update may go out now; `always` lets the last one of a run through."""
        now = time.monotonic()
        if not always and now - self._last < self._seconds:
            return False
        self._last = now
        return True


class RemainingTime:
    """Estimates the time left from the share of the work done so far.

    Shares that were found finished (skipped runs) are passed by `skip`, so that they do not make the rest look quick.
    `clock` gives seconds.

    >>> times = iter([0.0, 0.5, 10.5])
    >>> remaining = RemainingTime(clock=lambda: next(times))
    >>> remaining.skip(0.5)
    >>> remaining.seconds(0.75)
    10.0
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._share, self._time = 0.0, clock()

    def skip(self, share: float) -> None:
        """Count from here: `share` of the work is done and cost nothing."""
        self._share, self._time = share, self._clock()

    def seconds(self, share: float) -> float | None:
        """Seconds left when `share` of all work is done; None while nothing is known."""
        done, spent = share - self._share, self._clock() - self._time
        return (1 - share) * spent / done if done > 0 and spent > 0 else None


def duration(seconds: float) -> str:
    """`seconds` for a person.

    >>> duration(8.2), duration(125), duration(7300)
    ('8 s', '2 min 5 s', '2 h 1 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"
