"""Runs of a comparison on an executor's processes or machines, with the numbers of one process."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gdrop_viz.base.digest import digest
from gdrop_viz.base.locks import model_lock
from gdrop_viz.base.parallel import Job, check_executor, packed, results
from gdrop_viz.finetuning.events import Event, StopSignal
from gdrop_viz.finetuning.hyperparameters import Hyperparameters
from gdrop_viz.finetuning.tracker import Run, RunTracker, scores_at
from gdrop_viz.finetuning.train import run_rows
from gdrop_viz.finetuning.units import percent

if TYPE_CHECKING:
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task

_MOST_DEATHS = 2


@dataclasses.dataclass(frozen=True)
class _StopFile:
    """A stop signal that reaches other processes: the file exists."""

    path: str

    @property
    def folder(self) -> Path:
        return Path(self.path).parent

    def is_set(self) -> bool:
        return Path(self.path).exists()

    def set(self) -> None:
        Path(self.path).touch()


@dataclasses.dataclass(frozen=True)
class _Runs:
    """What all runs share; called in a worker with what one run has of its own. No rows if it is to stop."""

    lm: Pretrained
    task: Task
    arms: Mapping[str, Any]
    hyperparameters: Hyperparameters
    stop: _StopFile

    def __call__(self, arm: str, seed: int, fraction: float) -> list[dict[str, Any]]:
        if self.stop.is_set():
            return []
        with _survived(self.stop.folder, _name(arm, seed, fraction)):
            return run_rows(self.lm, self.task, self.arms[arm], seed, fraction, self.hyperparameters, stop=self.stop)


@contextmanager
def _survived(folder: Path, name: str) -> Iterator[None]:
    """Leave a file in `folder` while a run is at work; raise RuntimeError if two workers have not come back from it.

    Dask gives the run of a worker that died to another one, four times. That is right for a machine that is switched
    off, once; an arm that ends its process would take all of its time again and again. Folders of other machines, which
    do not exist here, are left alone.
    """
    if not folder.is_dir():
        yield
        return
    stem = digest(name)[:20]
    if len(list(folder.glob(f"{stem}-*"))) >= _MOST_DEATHS:
        raise RuntimeError(
            f"expected workers that live until the last run, but {_MOST_DEATHS} of them died in {name}; what was done "
            "before is kept. Does the arm end its process, or was there too little memory?"
        )
    file = folder / f"{stem}-{uuid.uuid4().hex}"
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _name(arm: str, seed: int, fraction: float) -> str:
    return f"arm {arm!r}, {percent(fraction)}, seed {seed}"


def spread(
    executor: Executor,
    tracker: RunTracker,
    lm: Pretrained,
    task: Task,
    arms: Mapping[str, Any],
    hyperparameters: Hyperparameters,
    *,
    stop: StopSignal | None,
) -> None:
    """Do the unfinished runs of `tracker` on `executor`; each is kept as soon as it comes back.

    After a stop, an exception or an interrupt, waiting runs are withdrawn and running ones end within one step (on
    machines that see this machine's temporary folder; elsewhere they run on, and are not used).
    """
    check_executor(executor, may_fork=False)
    for name, arm in arms.items():
        packed(arm, f"arm {name!r} as one")

    def jobs() -> Iterator[Job]:
        for run in tracker.unfinished():
            tracker.start(run)
            yield Job(run, _name(run.arm, run.seed, run.fraction), (run.arm, run.seed, run.fraction))

    with tempfile.TemporaryDirectory() as folder:
        stop_file = _StopFile(str(Path(folder) / f"stop-{uuid.uuid4().hex}"))
        with model_lock(lm.model):
            shared = (_on_cpu(lm), task, dict(arms), hyperparameters, stop_file)
            payload = packed((_Runs, shared), "a model, tokenizer and task")
        done = results(
            executor, payload, jobs(), stopping=lambda: stop is not None and stop.is_set(), end_running=stop_file.set
        )
        try:
            for run, rows in done:
                _keep(tracker, run, rows)
        finally:
            done.close()


def _on_cpu(lm: Pretrained) -> Pretrained:
    """The model as a worker without this machine's GPU can unpack it."""
    if all(parameter.device == torch.device("cpu") for parameter in lm.model.parameters()):
        return lm
    return dataclasses.replace(lm, model=copy.deepcopy(lm.model).cpu())


def _keep(tracker: RunTracker, run: Run, rows: list[dict[str, Any]]) -> None:
    listen = tracker.listener(run)
    epochs = sorted({row["epoch"] for row in rows})
    for epoch in epochs:
        steps = run.total_steps * epoch // tracker.metadata["epochs"]
        listen(Event("epoch", epoch=epoch, step=steps, total_steps=run.total_steps, metrics=scores_at(rows, epoch)))
    if tracker.finish(run, rows):
        tracker.bar.update(run.total_steps)
