"""Work that is killed at any moment: it resumes, loses at most one unit, and ends with the same bits.

A trial kills one piece of work again and again, at random times, until it is done; then it compares the result with
that of undisturbed work, bit by bit. Units are batches (Fisher), points (surfaces) and runs (comparisons).
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gdrop_viz as gv
from gdrop_viz.base.files import atomic_path, exclusive
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.torture.book import Book
from tests.torture.children import Report, run_child


@dataclass(frozen=True)
class Work:
    """`run(folder, report)` does it and reports each unit; `kept(folder)` counts the units on disk; `result(folder)`.

    `result` gives bytes that are equal if and only if the results are.
    """

    run: Callable[[Path, Report], None]
    kept: Callable[[Path], int]
    result: Callable[[Path], bytes]
    n_units: int


@cache
def _lm() -> gv.Pretrained:
    return gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")


@cache
def _batches() -> gv.Batches:
    return gv.pretraining_batches(_lm(), sentences(80), n_sequences=48, batch_size=4, max_length=12, progress=False)


# --- Fisher: one batch is a unit --------------------------------------------------------------------------------------


def _fisher(resolution: str) -> Work:
    def run(folder: Path, report: Report) -> None:
        from gdrop_viz.fisher.run import Run

        take = Run.add_batch

        def reporting(self: Any, *arguments: Any) -> None:
            take(self, *arguments)
            report()

        Run.add_batch = reporting  # in a fork: nobody else sees it
        settings = {"resolution": resolution, "method": "batched", "progress": False, "checkpoint_seconds": 0}
        fisher = gv.fisher_information(_lm().model, _batches(), checkpoint=folder / "sums.safetensors", **settings)
        fisher.save(folder / "fisher.safetensors")

    def kept(folder: Path) -> int:
        from safetensors import safe_open

        if not (folder / "sums.safetensors").exists():
            return 0
        with safe_open(folder / "sums.safetensors", framework="pt") as file:
            return json.loads(file.metadata()["gdrop_viz"])["batches"]

    def result(folder: Path) -> bytes:
        fisher = gv.Fisher.load(folder / "fisher.safetensors")
        parts = [fisher.means.to_numpy(), fisher.standard_errors.to_numpy(), fisher.history.to_numpy()]
        parts += [score.numpy() for score in (fisher.scores or {}).values()]
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)

    return Work(run, kept, result, len(_batches()))


# --- surfaces: one point is a unit ------------------------------------------------------------------------------------


def _surface(points: int) -> Work:
    def run(folder: Path, report: Report) -> None:
        plane = [gv.random_direction(_lm().model, seed=seed) for seed in (0, 1)]
        gv.loss_surface(
            _lm().model, _batches()[:1], plane, points=points, path=folder / "s.h5", progress=False,
            on_point=lambda point: report(),
        )  # fmt: skip

    def kept(folder: Path) -> int:
        return gv.Surface.load(folder / "s.h5").n_evaluated if (folder / "s.h5").exists() else 0

    def result(folder: Path) -> bytes:
        surface = gv.Surface.load(folder / "s.h5")
        arrays = (surface.x, surface.y, surface.loss, surface.standard_error, surface.sequence_losses)
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)

    return Work(run, kept, result, points * points)


# --- comparisons: one run is a unit -----------------------------------------------------------------------------------


@cache
def _task() -> gv.Task:
    from tests.finetuning.conftest import animal_rows

    return gv.Task("animals", train=animal_rows(24, seed=0), validation=animal_rows(12, seed=1))


def _comparison() -> Work:
    def run(folder: Path, report: Report) -> None:
        arms = {"standard": 0.1, "none": None}
        result = gv.compare(
            _lm(), _task(), arms, seeds=[0, 1], epochs=1, batch_size=8, learning_rate=1e-3, path=folder / "runs",
            progress=False, on_event=lambda event: report() if event.kind == "run finished" else None,
        )  # fmt: skip
        result.save(folder / "result.json")

    def kept(folder: Path) -> int:
        from gdrop_viz.finetuning.store import RunStore

        return len(list(RunStore.open(folder / "runs").all())) if (folder / "runs").is_dir() else 0

    def result(folder: Path) -> bytes:
        runs = gv.Comparison.load(folder / "result.json").runs.drop(columns="seconds")
        return runs.to_csv(index=False, float_format="%.17g").encode()

    return Work(run, kept, result, 4)


# --- atomic writes: one whole file is a unit --------------------------------------------------------------------------


def _writing(pieces: int = 100, versions: int = 30) -> Work:
    """The same file again and again, each time of one repeated number; whatever is found must be one whole version."""

    def run(folder: Path, report: Report) -> None:
        with exclusive(folder / "file.json"):
            for version in range(_version(folder) + 1, versions + 1):
                # slowly, so that most kills fall into a write
                with atomic_path(folder / "file.json") as temporary, temporary.open("w") as file:
                    for piece in range(pieces):
                        file.write(f"{',' if piece else '['} {version}")
                        file.flush()
                        time.sleep(2e-4)
                    file.write("]")
                report()

    return Work(run, _version, lambda folder: (folder / "file.json").read_bytes(), versions)


def _version(folder: Path) -> int:
    if not (folder / "file.json").exists():
        return 0
    numbers = set(json.loads((folder / "file.json").read_text()))
    assert len(numbers) == 1, "parts of two versions"
    return numbers.pop()


WORKS: dict[str, Callable[[], Work]] = {
    "Fisher, a score per parameter": lambda: _fisher("element"),
    "Fisher, means per tensor": lambda: _fisher("tensor"),
    "loss surface": lambda: _surface(9),
    "comparison": _comparison,
    "atomic write": _writing,
}


@cache
def _imported() -> None:
    """Load here what the children need, so that they begin to work at once; no backward pass may run before a fork."""
    import h5py  # noqa: F401
    import scipy  # noqa: F401

    import gdrop_viz.finetuning.trainer  # noqa: F401

    gv.sequence_losses(_lm().model, _batches()[0])
    gv.dropout_sites(_lm().model)
    _task()


@cache
def _undisturbed(name: str) -> tuple[bytes, float]:
    """The result without kills, and how long it takes."""
    _imported()
    work = WORKS[name]()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        ended = run_child(lambda report: work.run(Path(folder), report), seconds=600)
        assert ended.status == 0, ended.error
        return work.result(Path(folder)), time.monotonic() - start


def trial(name: str, seed: int, *, most: int = 5, units: int | None = None) -> dict[str, Any]:
    """Kill one piece of work up to `most` times, then let it end; raises AssertionError if anything was lost.

    Kills come at random times, or as soon as a life has done `units` units: then they hit however fast the machine is.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    expected, seconds = _undisturbed(name)
    work, rng = WORKS[name](), random.Random(f"{name} {seed}")
    folder = Path(tempfile.mkdtemp())
    kills, lost_most = 0, 0
    try:
        while True:
            before = work.kept(folder)
            # spread over the whole work, however little of it one life gets done
            when = {"kill_after": rng.uniform(0, 0.5 * seconds)} if units is None else {"kill_after_units": units}
            when = when if kills < most else {}
            ended = run_child(lambda report: work.run(folder, report), seconds=60 + 60 * seconds, **when)
            if not ended.killed:
                assert ended.status == 0, ended.error
                break
            assert when, ended.error
            kills += 1
            lost = before + ended.units - work.kept(folder)
            lost_most = max(lost_most, lost)
            assert lost <= 1, f"a kill lost {lost} units: {before} before, {ended.units} more, {work.kept(folder)} kept"
        assert before + ended.units <= work.n_units + 1, "finished units were done again"
        assert work.result(folder) == expected, "the result differs from the undisturbed one"
        left = [path.name for path in folder.rglob(".*") if path.is_file()]
        assert not left, f"temporary files or locks are left behind: {left}"
        return {"kills": kills, "lost": lost_most}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def campaign(book: Book, *, trials: int, names: tuple[str, ...] = tuple(WORKS)) -> None:
    """`trials` trials of each kind of work."""
    for seed in range(trials):
        for name in names:
            book.do(f"{name} {seed}", lambda name=name, seed=seed: trial(name, seed))
