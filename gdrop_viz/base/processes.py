"""Processes that torchrun or accelerate launch started: how many, and which one this is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def distributed() -> bool:
    """Whether this process has joined a group of processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def n_processes() -> int:
    """How many processes share the work: those of the group, or those that a launcher is about to join.

    >>> n_processes()
    1
    """
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
