"""Curves of a comparison while it runs: its events, gathered into a picture, progress and one sentence."""

from __future__ import annotations

import math

from gdrop_viz.finetuning.events import Event
from gdrop_viz.plots.picture import Axis, Picture, Series
from gdrop_viz.widgets.running import RemainingTime, duration

_MAX_POINTS = 150


class LiveCurves:
    """Follows the events of one comparison.

    The x axis spans all epochs from the start; the y axis only ever grows, so that the eye follows the curve and not
    the frame. The training loss is averaged over neighbouring steps where there are more than the curve can show.

    >>> curves = LiveCurves(epochs=2, arms=["guided"])
    >>> curves.add(Event("run started", "guided", 1.0, 0, total_steps=4))
    >>> curves.add(Event("step", "guided", 1.0, 0, epoch=0.5, step=1, total_steps=4, metrics={"loss": 0.7}))
    >>> curves.share
    0.25
    """

    def __init__(self, *, epochs: int, arms: list[str], loss_unit: str = "nats") -> None:
        self._epochs = epochs
        self._styles = {arm: k for k, arm in enumerate(arms)}
        self._unit = loss_unit
        self._top = 0.0
        self._training: list[tuple[float, float]] = []
        self._validation: dict[str, list[tuple[float, float]]] = {}
        self._remaining = RemainingTime()
        self._event = Event("finished", total_runs=0)
        self._skipped = 0

    @property
    def share(self) -> float:
        """The share of all updates that is done, runs counted alike."""
        event = self._event
        within = event.step / event.total_steps if event.kind in ("step", "epoch") and event.total_steps else 0.0
        return min(1.0, (event.done_runs + within) / event.total_runs) if event.total_runs else 0.0

    def add(self, event: Event) -> None:
        """Take in one event."""
        self._event = event
        loss = event.metrics.get("loss")
        if event.kind == "run started":
            self._training, self._validation[event.arm or ""] = [], []
        elif event.kind == "run skipped":
            self._skipped += 1
            self._remaining.skip(self.share)
        elif event.kind == "step" and loss is not None:
            self._training.append((event.epoch, loss))
            self._grow(loss)
        elif event.kind == "epoch" and loss is not None:
            self._validation.setdefault(event.arm or "", []).append((event.epoch, loss))
            self._grow(loss)

    def picture(self) -> Picture:
        """Training loss of the current run, and validation loss of the latest run of each arm."""
        event = self._event
        series = []
        if self._training:
            points = _thinned(self._training)
            label = f"training, {event.arm}" if event.arm else "training, last run"
            series.append(Series(label, [x for x, _ in points], [y for _, y in points], style=6, marker=False))
        for arm, points in self._validation.items():
            if points:
                style = self._styles.get(arm, 7)
                style += style >= 6  # 6 is the training curve
                series.append(Series(f"validation, {arm}", [x for x, _ in points], [y for _, y in points], style=style))
        return Picture(
            title="Live curves",
            summary=self._losses(),
            x=Axis("epoch", (0.0, float(self._epochs))),
            y=Axis(f"loss ({self._unit})", (0.0, self._top or 1.0)),
            series=tuple(series),
        )

    def sentence(self) -> str:
        """Where the comparison stands, in words."""
        event = self._event
        if not event.total_runs:
            return "No run yet."
        runs = f"{event.done_runs} of {event.total_runs} runs done"
        if self._skipped:
            runs += f" ({self._skipped} found on disk)"
        if event.kind in ("finished", "stopped"):
            kept = "; finished runs are kept" if event.kind == "stopped" else ""
            return f"{event.kind.capitalize()}: {runs}{kept}."
        left = self._remaining.seconds(self.share)
        about = f", about {duration(left)} left" if left is not None else ""
        now = f"Training {event.arm}, seed {event.seed}" if event.arm else "Starting"
        step = f", step {event.step} of {event.total_steps}" if event.total_steps else ""
        return f"{now}{step}; {runs}{about}."

    def _losses(self) -> str:
        """The latest losses, in words."""
        parts = [f"{arm} {points[-1][1]:.3g}" for arm, points in self._validation.items() if points]
        if self._training:
            parts.insert(0, f"training {self._training[-1][1]:.3g}")
        if not parts:
            return "Curves appear while a run trains."
        return f"Latest loss in {self._unit}: {', '.join(parts)} (arms: validation of their latest run)."

    def _grow(self, loss: float) -> None:
        """Make room for `loss` in steps of a quarter, so that the frame moves seldom."""
        if math.isfinite(loss) and loss > self._top:
            self._top = math.ceil(loss * 1.1 * 4) / 4


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points, each the mean of its neighbours."""
    width = -(-len(points) // _MAX_POINTS)
    groups = [points[k : k + width] for k in range(0, len(points), width)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
