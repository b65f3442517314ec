"""Observation of one forward: dropout calls and uses of parameters, in time and in the stack of modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

OWN_MASK = "own mask"


class Running(NamedTuple):
    """One invocation of a module: its dotted path and which forward call (of all modules) it was."""

    path: str
    invocation: int


class Origin(NamedTuple):
    """Which parameter uses a tensor was computed from, as bit sets of their times: all, and since a dropout."""

    all: int = 0
    recent: int = 0

    def __or__(self, other: Origin) -> Origin:
        return Origin(self.all | other.all, self.recent | other.recent)


@dataclass(frozen=True)
class DropoutCall:
    """One observed call: its rate in this mode, the modules running (outermost first), its place in time.

    The rate is NaN, and the function `OWN_MASK`, where a module drew a mask itself.
    """

    function: str
    index: int  # of this function within the invocation of the innermost module
    rate: float
    stack: tuple[Running, ...]
    time: int
    on_probabilities: bool
    inputs: Origin

    @property
    def path(self) -> str:
        """The innermost running module."""
        return self.stack[-1].path

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the same call in another forward of the same model."""
        return self.path, self.function, self.index


@dataclass(frozen=True)
class ParameterUse:
    """A parameter entered a computation: its name, the modules running, its place in time."""

    name: str
    stack: tuple[Running, ...]
    time: int


@dataclass
class Observation:
    """Everything that one forward showed, in execution order."""

    calls: list[DropoutCall] = field(default_factory=list)
    uses: list[ParameterUse] = field(default_factory=list)

    def by_key(self) -> dict[tuple[str, str, int], DropoutCall]:
        """The first call with each key; a shared layer makes the same call several times."""
        return {call.key: call for call in reversed(self.calls)}
