"""Tracker of a comparison's runs: done or to do, with their events and the progress bar."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gdrop_viz.base.processes import is_first
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.finetuning.events import Event, EventKind, Listener
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.run_table import run_table
from gdrop_viz.finetuning.store import RunStore, fingerprint
from gdrop_viz.finetuning.units import percent

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One cell of a comparison; `settings` holds everything that determines its result, `name` is their fingerprint."""

    arm: str
    fraction: float
    seed: int
    settings: dict[str, Any] = field(repr=False)
    total_steps: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", fingerprint(self.settings))

    @property
    def key(self) -> dict[str, Any]:
        """The first columns of its rows."""
        return {"arm": self.arm, "fraction": self.fraction, "seed": self.seed}


class RunTracker:
    """The runs of a comparison: found in the store or to do; each is kept there as soon as it is done.

    Two arms that come to the same settings (a uniform rate, and a matched schedule of that rate) are one run; the
    second is "skipped".
    """

    def __init__(
        self,
        runs: Sequence[Run],
        store: RunStore,
        metadata: dict[str, Any],
        *,
        metric: str,
        on_event: Listener | None = None,
        progress: bool = True,
    ) -> None:
        self.runs, self.store, self.metadata, self.metric, self.on_event = runs, store, metadata, metric, on_event
        found = {run.name: store.read(run.settings) for run in runs}
        self.rows: dict[str, Rows] = {}
        self.bar = progress_bar(
            total=sum(run.total_steps for run in runs),
            initial=sum(run.total_steps for run in runs if found[run.name] is not None),
            description="fine-tuning",
            unit="step",
            show=progress and is_first(),
        )
        for run in runs:
            rows = found[run.name]
            if rows is not None:
                self.rows[run.name] = rows
                self._emit_end("run skipped", run)

    def unfinished(self) -> Iterator[Run]:
        """Yield the runs to do; of runs with the same settings only the first."""
        seen = set(self.rows)
        for run in self.runs:
            if run.name not in seen:
                seen.add(run.name)
                yield run

    def start(self, run: Run) -> None:
        """Announce that `run` begins."""
        where = f"{run.arm}, {percent(run.fraction)}, seed {run.seed}"
        logger.info("run %d of %d: %s", self.n_done + 1, len(self.runs), where)
        self.bar.set_description(f"run {self.n_done + 1} of {len(self.runs)} ({where})")
        self._emit(Event("run started", **run.key, total_steps=run.total_steps))

    def listener(self, run: Run) -> Listener:
        """Return the listener for the training of `run`: it moves the bar and adds the run's names to each event."""

        def listen(event: Event) -> None:
            if event.kind == "step":
                self.bar.update(1)
            self._emit(replace(event, **run.key))

        return listen

    def finish(self, run: Run, rows: Rows) -> bool:
        """Keep `run` if it came to its end; return whether it did."""
        if not rows or rows[-1]["epoch"] < self.metadata["epochs"]:
            return False
        about = {"arm": run.arm, "model": self.metadata["model"], "task": self.metadata["task"], "metric": self.metric}
        if is_first():
            self.store.write(run.settings, rows, about=about)
        self.rows[run.name] = rows
        for twin in self.runs:
            if twin.name == run.name:
                if twin is not run:
                    self.bar.update(twin.total_steps)
                self._emit_end("run finished" if twin is run else "run skipped", twin)
        return True

    @property
    def n_done(self) -> int:
        """How many runs are done."""
        return sum(run.name in self.rows for run in self.runs)

    def comparison(self) -> Comparison:
        """Return the result with the runs done so far."""
        rows = [{**run.key, **row} for run in self.runs for row in self.rows.get(run.name, ())]
        return Comparison(run_table(rows), self.metric, {**self.metadata, "complete": self.n_done == len(self.runs)})

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        if kind is None:
            self._emit(Event("finished" if self.n_done == len(self.runs) else "stopped"))

    def _emit_end(self, kind: EventKind, run: Run) -> None:
        rows, steps = self.rows[run.name], run.total_steps
        epoch = rows[-1]["epoch"]
        self._emit(Event(kind, **run.key, epoch=epoch, step=steps, total_steps=steps, metrics=scores_at(rows, epoch)))

    def _emit(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(replace(event, done_runs=self.n_done, total_runs=len(self.runs)))


def scores_at(rows: Rows, epoch: int) -> dict[str, float]:
    """Return the validation scores in `rows` after `epoch`."""
    return {row["metric"]: row["value"] for row in rows if row["epoch"] == epoch and row["split"] == "validation"}
