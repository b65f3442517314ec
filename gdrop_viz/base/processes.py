"""Processes that torchrun or accelerate launch started: how many, and which one this is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch

_MEETING_SECONDS = 60.0
_alone = ContextVar("alone", default=False)
_meetings = itertools.count()


def distributed() -> bool:
    """Whether this process has joined a group of processes, with which it shares its work."""
    return not _alone.get() and torch.distributed.is_available() and torch.distributed.is_initialized()


def n_processes() -> int:
    """How many processes share the work: those of the group, or those that a launcher is about to join.

    >>> n_processes()
    1
    """
    if _alone.get():
        return 1
    if distributed():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", 1)) if torch.distributed.is_available() else 1


def rank() -> int:
    """The number of this process, from 0."""
    if distributed():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", 0)) if n_processes() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of a launcher, if there are any and that is not done yet; leave them afterwards."""
    if n_processes() == 1 or distributed():
        yield
        return
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work for itself inside, though it belongs to a group: what one rank does and the others do not.

    >>> with alone():
    ...     n_processes(), rank()
    (1, 0)
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def meet(what: str) -> None:
    """Wait until all processes of the group have come to `what`, a call that shares its work.

    Raises
    ------
    RuntimeError
        If some do not come within a minute: the first exchange would hang until the group's timeout.
    """
    if distributed():
        from torch.distributed import distributed_c10d

        store = distributed_c10d._get_default_store()
        _meet(store, what, next(_meetings), rank(), n_processes(), _MEETING_SECONDS)


def _meet(store: Any, what: str, number: int, rank: int, size: int, seconds: float) -> None:
    names = [f"gdrop_viz/{what}/{number}/{each}" for each in range(size)]
    store.set(names[rank], "here")
    try:
        store.wait(names, timedelta(seconds=seconds))
    except RuntimeError:  # torch's own errors of stores are such
        missing = [str(each) for each, name in enumerate(names) if not store.check([name])]
        raise RuntimeError(
            f"expected all {size} processes to call {what}, but within {seconds:g} seconds rank {', '.join(missing)} "
            "did not; call it in every process, or in one of them inside `with gdrop_viz.base.processes.alone():`"
        ) from None
