"""How many can work at once on an executor, and how does a large value reach its workers once, not with every task?

Any `concurrent.futures.Executor` will do. Dask's (`distributed.Client.get_executor()`) moves data between machines
itself and replaces workers that die, so there the value is a task's result that the other tasks depend on: it travels
to a worker once, and is made again if the worker that held it dies.
"""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from typing import Any, TypeVar

_Value = TypeVar("_Value")


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


def held_by_workers(executor: Executor, value: Any) -> Any:
    """Return what stands for `value` among a task's arguments if the executor keeps it on its workers, else None.

    It is kept as long as the returned object lives.
    """
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
