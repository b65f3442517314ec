"""How are the runs of a comparison spread over processes or machines, with the same numbers as in one process?"""

from __future__ import annotations

import pickle
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gdrop_viz.base.parallel import held_by_workers, n_workers
from gdrop_viz.base.state import preserved_rng
from gdrop_viz.finetuning.classifier import pretrained_digest
from gdrop_viz.finetuning.events import Event, StopSignal
from gdrop_viz.finetuning.hyperparameters import Hyperparameters
from gdrop_viz.finetuning.tracker import Run, RunTracker, scores_at
from gdrop_viz.finetuning.train import my_turn, run_rows
from gdrop_viz.models.hub import quiet_libraries

if TYPE_CHECKING:
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Parcel:
    """A `Pretrained` that can be sent: its weights as safetensors bytes, so that no shared memory is needed."""

    checksum: str
    model_class: type
    config: Any
    weights: bytes = field(repr=False)
    tokenizer: Any = field(repr=False)
    objective: str
    name: str


@dataclass(frozen=True)
class _StopFile:
    """A stop signal that reaches other processes: the file exists."""

    path: str

    def is_set(self) -> bool:
        return Path(self.path).exists()

    def set(self) -> None:
        Path(self.path).touch()


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
    """Do the unfinished runs of `tracker` on `executor`; each is written down as soon as it comes back.

    Only as many runs are handed over as can be busy soon. A worker gets the model once: one that lacks it answers
    None, and only such a run is handed over again together with it. After a stop, an exception or an interrupt,
    waiting runs are withdrawn and running ones end within one step (on machines that see this machine's temporary
    folder; elsewhere they run on, and are not used).
    """
    _check(executor, arms)
    parcel = _packed(lm)
    held = held_by_workers(executor, parcel)
    waiting = tracker.unfinished()
    running: dict[Future, Run] = {}
    limit = 2 * n_workers(executor)
    with tempfile.TemporaryDirectory() as folder:
        stop_file = _StopFile(str(Path(folder) / f"stop-{uuid.uuid4().hex}"))

        def submit(run: Run, model: Any) -> None:
            job = (parcel.checksum, model, task, arms[run.arm], run.seed, run.fraction, hyperparameters)
            running[executor.submit(_remote_run, *job, torch.get_num_threads(), stop_file)] = run

        try:
            while True:
                stopping = stop is not None and stop.is_set()
                while not stopping and len(running) < limit and (run := next(waiting, None)) is not None:
                    tracker.start(run)
                    submit(run, held)
                if not running:
                    return
                if stopping:
                    stop_file.set()
                    running = {future: run for future, run in running.items() if not future.cancel()}
                done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    run = running.pop(future)
                    if (rows := future.result()) is not None:
                        _write_down(tracker, run, rows)
                    elif not stopping:
                        submit(run, parcel)
        finally:
            stop_file.set()
            for future in running:
                future.cancel()
            # the running ones look for the file at each step; it must not vanish before they saw it
            wait(running, timeout=60)


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let torch use `threads` CPU threads for a while; None leaves their number alone."""
    if threads is None:
        yield
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_down(tracker: RunTracker, run: Run, rows: list[dict[str, Any]]) -> None:
    hear = tracker.listener(run)
    epochs = sorted({row["epoch"] for row in rows})
    for epoch in epochs:
        steps = run.total_steps * epoch // tracker.metadata["epochs"]
        hear(Event("epoch", epoch=epoch, step=steps, total_steps=run.total_steps, metrics=scores_at(rows, epoch)))
    if tracker.finish(run, rows):
        tracker.bar.update(run.total_steps)


def _remote_run(
    checksum: str,
    parcel: _Parcel | None,
    task: Task,
    arm: Any,
    seed: int,
    fraction: float,
    hyperparameters: Hyperparameters,
    threads: int,
    stop: StopSignal,
) -> list[dict[str, Any]] | None:
    """Train in a worker; None says that the worker has no model yet and needs the parcel, or is to stop."""
    if stop.is_set():
        return []
    lm = _UNPACKED.get(checksum) if parcel is None else _unpacked(parcel, stop)
    if lm is None:
        return None
    with limited_threads(threads):
        return run_rows(lm, task, arm, seed, fraction, hyperparameters, stop=stop)


def _packed(lm: Pretrained) -> _Parcel:
    from safetensors.torch import save

    # clones, since safetensors refuses tied tensors; loading ties them again
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in lm.model.state_dict().items()}
    return _Parcel(
        pretrained_digest(lm), type(lm.model), lm.model.config, save(state), lm.tokenizer, lm.objective, lm.name
    )


# the model that this worker unpacked last: a comparison sends the same one with every run
_UNPACKED: dict[str, Pretrained] = {}


def _unpacked(parcel: _Parcel, stop: StopSignal | None = None) -> Pretrained | None:
    from safetensors.torch import load

    from gdrop_viz.models.pretrained import Pretrained

    # building the model draws random numbers, which belong to the process: not while another thread trains
    with my_turn(stop) as mine:
        if not mine:
            return None
        if parcel.checksum not in _UNPACKED:
            _UNPACKED.clear()
            weights = load(parcel.weights)
            with quiet_libraries(), preserved_rng(0):
                model = parcel.model_class(parcel.config)
            for name, tensor in model.state_dict(keep_vars=True).items():
                tensor.data = weights[name]
            _UNPACKED[parcel.checksum] = Pretrained(model, parcel.tokenizer, parcel.objective, parcel.name)
        return _UNPACKED[parcel.checksum]


def _check(executor: Executor, arms: Mapping[str, Any]) -> None:
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}")
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "executor must not fork this process: torch's threads do not survive it; make it with "
            "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
        )
    for name, arm in arms.items():
        try:
            pickle.dumps(arm)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"arm {name!r} cannot be sent to another process ({error}); use a function at the top of an importable "
                "module, a frozen dataclass or GaussianArm"
            ) from error
