"""Events of a running comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

EventKind = Literal["run started", "step", "epoch", "run finished", "run skipped", "finished", "stopped"]


@dataclass(frozen=True)
class Event:
    """One moment of a comparison.

    Parameters
    ----------
    kind
        "run started", "step" (after each update of the weights), "epoch" (after its evaluation), "run finished",
        "run skipped" (it was on disk already), and at the very end "finished" or "stopped".
    arm, fraction, seed
        The run it is about; None for the end of the whole comparison.
    epoch
        Epochs done; a broken number within an epoch.
    step, total_steps
        Updates done in this run, and how many it will make.
    metrics
        "step": {"loss": training loss of this batch, in nats or squared label units}. "epoch", "run finished" and
        "run skipped": the validation metrics and the validation loss.
    done_runs, total_runs
        Progress of the whole comparison.
    """

    kind: EventKind
    arm: str | None = None
    fraction: float | None = None
    seed: int | None = None
    epoch: float = 0.0
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    done_runs: int = 0
    total_runs: int = 1


Listener = Callable[[Event], object]


class StopSignal(Protocol):
    """Anything that can be asked whether to stop: a `threading.Event`, for one."""

    def is_set(self) -> bool: ...
