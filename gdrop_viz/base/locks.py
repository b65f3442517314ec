"""Locks of models and of the random generators, which all threads of a process share.

A surface moves a model's weights in place, an estimation switches its modes and gradients off, a training draws its
dropout masks from the process's generators: a second thread at the same model, or at the generators, would change the
numbers of the first. So each such piece of work holds the lock of its model (`model_lock`, and by it
`state.preserved_modes` and `preserved_requires_grad`) or of the generators (`state.preserved_rng`). Both are reentrant
and served in the order of asking. Long work gives way between two of its units: `give_way` for the generators,
`Hold.waited_for` for a model.

No two threads can wait for each other through one model and the generators: who has to wait for a model lends the
generators out meanwhile, and finds their states again.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

_POLL_SECONDS = 0.1
_numbers = itertools.count()


class TurnLock:
    """A reentrant lock whose waiters are served in the order in which they came.

    >>> lock = TurnLock()
    >>> lock.acquire(), lock.acquire(), lock.is_mine, lock.waited_for
    (True, True, True, False)
    >>> lock.release_all(), lock.is_mine
    (2, False)
    """

    def __init__(self) -> None:
        self.number = next(_numbers)  # whoever needs several takes them in this order
        self._changed = threading.Condition(threading.Lock())
        self._owner: int | None = None
        self._depth = 0
        self._queue: deque[object] = deque()

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return self._owner == threading.get_ident()

    @property
    def waited_for(self) -> bool:
        """Whether another thread waits for it."""
        return bool(self._queue)

    def acquire(self, depth: int = 1, *, blocking: bool = True, cancelled: Callable[[], bool] | None = None) -> bool:
        """Take it, `depth` times at once, and return True; False if that would block, or once `cancelled()` is true."""
        me = threading.get_ident()
        with self._changed:
            if self._owner == me or (self._owner is None and not self._queue):
                self._owner, self._depth = me, self._depth + depth
                return True
            if not blocking:
                return False
            ticket = object()
            self._queue.append(ticket)
            try:
                while self._owner is not None or self._queue[0] is not ticket:
                    self._changed.wait(None if cancelled is None else _POLL_SECONDS)
                    if cancelled is not None and cancelled():
                        return False
                self._owner, self._depth = me, depth
                return True
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def release(self, depth: int = 1) -> None:
        """Give it back once; the last time it is the next waiter's. Nothing happens if this thread does not hold it.

        (An interrupt may strike while it is being taken back.)
        """
        with self._changed:
            if not self.is_mine:
                return
            self._depth -= depth
            if self._depth == 0:
                self._owner = None
                self._changed.notify_all()

    def release_all(self) -> int:
        """Give it back as often as it was taken, and return how often that was."""
        depth = self._depth if self.is_mine else 0
        self.release(depth)
        return depth


# --- the generators ---------------------------------------------------------------------------------------------------

GENERATORS = TurnLock()


def generator_states() -> tuple[Any, ...]:
    """The states of the global generators of random, numpy and torch (CPU, and CUDA where it is in use)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_generator_states(states: tuple[Any, ...]) -> None:
    """Put back what `generator_states` gave."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])


def give_way() -> None:
    """Let other threads have the generators if they wait for them; afterwards their states are this thread's again."""
    if GENERATORS.is_mine and GENERATORS.waited_for:
        with _generators_lent():
            pass


@contextmanager
def _generators_lent() -> Iterator[None]:
    if not GENERATORS.is_mine:
        yield
        return
    states, depth = generator_states(), GENERATORS.release_all()
    try:
        yield
    finally:
        GENERATORS.acquire(depth)
        set_generator_states(states)


# --- models -----------------------------------------------------------------------------------------------------------

_of_parameters: Any = WeakTensorKeyDictionary()  # parameter (or a module without any) -> its lock
_registering = threading.Lock()


class _Holds(threading.local):
    """The models whose locks this thread holds, by id."""

    def __init__(self) -> None:
        self.by_id: dict[int, Hold] = {}


_holds = _Holds()


@dataclass(frozen=True)
class Hold:
    """A model that this thread has to itself."""

    model: nn.Module
    locks: tuple[TurnLock, ...]

    @property
    def waited_for(self) -> bool:
        """Whether another thread waits for the model, so that this one should restore it and let go for a moment."""
        return any(lock.waited_for for lock in self.locks)


@contextmanager
def model_lock(model: nn.Module) -> Iterator[Hold]:
    """Have `model` for this thread: no other one moves its weights, sets its modes or traces it meanwhile.

    What is locked are the parameters, so that a model, its parts and whatever wraps it or shares its weights exclude
    each other. Reentrant. Other threads wait until the context is left.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> with model_lock(model) as hold, model_lock(model[0]):
    ...     hold.waited_for
    False
    """
    if (held := _holds.by_id.get(id(model))) is not None:
        yield held
        return
    hold, taken = Hold(model, _locks_of(model)), []
    try:
        for lock in hold.locks:
            if not lock.acquire(blocking=False):
                with _generators_lent():
                    lock.acquire()
            taken.append(lock)
        _holds.by_id[id(model)] = hold
        yield hold
    finally:
        _holds.by_id.pop(id(model), None)
        for lock in reversed(taken):
            lock.release()


def _locks_of(model: nn.Module) -> tuple[TurnLock, ...]:
    """The locks of all parameters; those that have none yet get one together."""
    fresh = TurnLock()
    with _registering:
        found = {_of_parameters.setdefault(key, fresh) for key in (*model.parameters(), *model.buffers()) or (model,)}
    return tuple(sorted(found, key=lambda lock: lock.number))


def _forget() -> None:
    """In a forked process: the threads that held the locks are not there."""
    global _registering
    _registering = threading.Lock()
    GENERATORS.__init__()  # type: ignore[misc]
    _of_parameters.clear()
    _holds.by_id.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
