"""Jobs on an executor: few in flight, what they share sent once per worker, stops, and workers that die.

Any `concurrent.futures.Executor` will do. What the jobs share travels as bytes: torch would hand tensors over through
shared memory, and a worker that moves its weights would move the caller's. Dask (`distributed.Client.get_executor()`)
moves data between machines itself and replaces workers that die, so there the bytes are a task's result that the other
tasks depend on: they travel to a worker once, and are made again if the worker that held them dies.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from gdrop_viz.base.checks import few
from gdrop_viz.base.state import limited_threads

_Value = TypeVar("_Value")
_POLL_SECONDS = 0.2
_LAST_SECONDS = 60.0  # how long running jobs that were told to end are waited for after an error


@dataclass(frozen=True)
class Job:
    """One piece of work: `key` comes back with its result, `name` stands in errors, `arguments` go to the worker."""

    key: Any
    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _PayloadWanted:
    """What a worker answers that has not got the shared payload yet."""


def check_executor(executor: object, *, may_fork: bool = True) -> None:
    """Raise TypeError unless work can be handed to `executor`; ValueError if it forks and must not.

    >>> check_executor(4)
    Traceback (most recent call last):
    TypeError: expected executor as a concurrent.futures.Executor, got int
    """
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(f"expected executor as a concurrent.futures.Executor, got {type(executor).__name__}")
    context = getattr(executor, "_mp_context", None)
    if not may_fork and context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "expected an executor that does not fork this process (torch's threads do not survive it), got one that "
            "does; make it with ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
        )


def n_workers(executor: Executor) -> int:
    """Return how many tasks the executor works on at once; 4 if it does not say.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> n_workers(ThreadPoolExecutor(3))
    3
    """
    count = getattr(executor, "_max_workers", None)
    if count is None and (client := _dask_client(executor)) is not None:
        count = sum(client.nthreads().values())
    return count or 4


def packed(value: Any, what: str) -> bytes:
    """Return `value`, called `what` in errors, as bytes for workers (in memory only, never a file).

    >>> packed(lambda: 1, "loss=")
    Traceback (most recent call last):
    ValueError: expected loss= that can be sent to another process, got: ...
    """
    buffer = io.BytesIO()
    try:
        pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"expected {what} that can be sent to another process, got: {error}; define functions and classes in a "
            "module (no lambda, nothing from a notebook cell), or leave executor=None"
        ) from None
    return buffer.getvalue()


def results(
    executor: Executor,
    payload: bytes,
    jobs: Iterable[Job],
    *,
    stopping: Callable[[], bool],
    end_running: Callable[[], object] | None = None,
) -> Generator[tuple[Any, Any], None, None]:
    """Yield key and result of each of `jobs` as it comes back from `executor`.

    Parameters
    ----------
    payload
        What the jobs share: a `packed` pair of a function and its arguments. Each worker (thread) calls it once, and
        calls what it returned with the arguments of each job.
    jobs
        Taken one by one, when a job can be busy soon: one more than workers is in flight.
    stopping
        Asked five times a second. After True no further job begins.
    end_running
        Tells running jobs to end soon: called after a stop, whose running jobs are then waited for and yielded, and
        after an error or an interrupt. None: running jobs are left to themselves.

    Raises
    ------
    RuntimeError
        If a worker dies, with the names of the jobs that were running.
    Exception
        Whatever a job raises.
    """
    running: dict[Future[Any], Job] = {}
    waiting, limit = iter(jobs), n_workers(executor) + 1
    token, kept = uuid.uuid4().hex, _kept_by_workers(executor, payload)

    def submit(job: Job, data: Any) -> None:
        running[executor.submit(_in_worker, token, data, job.arguments, torch.get_num_threads())] = job

    try:
        while True:
            stopped = stopping()
            while not stopped and len(running) < limit and (job := next(waiting, None)) is not None:
                submit(job, kept)
            if stopped:
                if end_running is None:
                    return
                end_running()
                running = {future: job for future, job in running.items() if not future.cancel()}
            if not running:
                return
            finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=_failed):  # what is known before the error of another job
                value = _result(future, running)
                job = running.pop(future)
                if not isinstance(value, _PayloadWanted):
                    yield job.key, value
                elif not stopped:
                    submit(job, payload)
    finally:
        for future in running:
            future.cancel()
        if end_running is not None:
            end_running()
            wait(running, timeout=_LAST_SECONDS)


_worker = threading.local()  # what this thread has made of the last payload: two threads must not move the same weights


def _in_worker(token: str, payload: bytes | None, arguments: tuple[Any, ...], threads: int) -> Any:
    """Do one job in a worker, with the caller's number of torch threads: another one rounds sums in another order."""
    if getattr(_worker, "token", None) != token:
        if payload is None:
            return _PayloadWanted()
        _worker.token = _worker.work = None  # free the old model before the new one comes
        make, settings = pickle.loads(payload)
        _worker.work, _worker.token = make(*settings), token
    with limited_threads(threads):
        return _worker.work(*arguments)


def _failed(future: Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None


def _result(future: Future[Any], running: dict[Future[Any], Job]) -> Any:
    killed = getattr(sys.modules.get("distributed"), "KilledWorker", BrokenExecutor)
    try:
        return future.result()
    except (BrokenExecutor, CancelledError, killed) as error:
        # Dask says which job it was; a broken pool says of all running ones that they ended
        suspects = [running[future]] if isinstance(error, killed) and killed is not BrokenExecutor else running.values()
        raise RuntimeError(
            f"expected workers that live until the last job, got {type(error).__name__} while these were at work: "
            f"{few([job.name for job in suspects])}; what was done before is kept. Was there too little memory? A "
            'script that starts processes needs `if __name__ == "__main__":` around its main part'
        ) from error


def _kept_by_workers(executor: Executor, value: Any) -> Any:
    """Return what stands for `value` among a task's arguments if the executor keeps it on its workers, else None."""
    client = _dask_client(executor)
    if client is None:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")  # that is the point: once
        return client.submit(_same, value, pure=False)


def _same(value: _Value) -> _Value:
    return value


def _dask_client(executor: Executor) -> Any:
    return getattr(executor, "_client", None)
