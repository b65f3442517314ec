"""Damaged files: every reader refuses each with one clear line, and gives no wrong number, crash or hang.

A mutated file must either be refused with an error of one line that names it and says what to do, or be read as
exactly what was written (a byte that means nothing, such as padding).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gdrop_viz as gv
from gdrop_viz.curvature.sequences import SequenceCurvature
from gdrop_viz.landscape.paths import Trajectory
from gdrop_viz.studies.landscape_findings import LandscapeFindings
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.torture.book import Book
from tests.torture.children import run_child

REFUSALS = (ValueError, FileNotFoundError, IsADirectoryError, RuntimeError, OSError)
SECONDS = 20  # a reader at work for longer hangs


@dataclass(frozen=True)
class Reader:
    """`write(path)` makes a sound file (or folder), `read(path)` gives something to compare with ==.

    `victim` is the file inside the folder that is damaged; `unchecked` marks formats of other programs, without
    checksums, in which changed content is a valid file too: there only damage to the form must be refused.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    name: str
    victim: str = ""
    versions: tuple[tuple[bytes, bytes], ...] = ()
    unchecked: bool = False


@cache
def _parts() -> dict[str, Any]:
    """Small results of every kind, computed once."""
    lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
    batches = gv.pretraining_batches(lm, sentences(20), n_sequences=6, batch_size=3, max_length=10, progress=False)
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 5)
    surface = gv.Surface(
        x, x, rng.random((5, 5)), rng.random((5, 5)), rng.random((5, 5, 6)), {"accuracy": rng.random((5, 5))}, None,
        {"label": "made up", "directions": [{"label": "d", "norm": 2.0}]},
    )  # fmt: skip
    fisher = gv.fisher_information(lm.model, batches, progress=False)
    schedule = gv.guided_dropout(lm.model, fisher)
    return {"lm": lm, "batches": batches, "fisher": fisher, "surface": surface, "schedule": schedule}


def _rows() -> list[dict[str, Any]]:
    return [
        {"epoch": 1, "split": "validation", "metric": "accuracy", "value": 0.75, "seconds": 1.5},
        {"epoch": 1, "split": "validation", "metric": "loss", "value": 0.5, "seconds": 1.5},
    ]


_RUN = {"common": {"model": "m", "hyperparameters": {"epochs": 1}}, "fraction": 1.0, "seed": 0}


def _write_run(folder: Path) -> None:
    from gdrop_viz.finetuning.store import RunStore

    RunStore.open(folder).write(_RUN, _rows(), about={"arm": "a", "model": "m", "task": "t", "metric": "accuracy"})


def _read_run(folder: Path) -> list[Any]:
    from gdrop_viz.finetuning.store import RunStore

    return [repr(part) for part in RunStore.open(folder).all()]


def _write_checkpoint(path: Path) -> None:
    parts = _parts()
    gv.fisher_information(parts["lm"].model, parts["batches"], checkpoint=path, progress=False, method="batched")


def _read_checkpoint(path: Path) -> list[bytes]:
    parts = _parts()
    settings = {"checkpoint": path, "progress": False, "method": "batched"}
    return _fisher_bits(gv.fisher_information(parts["lm"].model, parts["batches"], **settings))


def _fisher_bits(fisher: gv.Fisher) -> list[bytes]:
    arrays = [fisher.means, fisher.standard_errors, fisher.history, *(fisher.scores or {}).values()]
    facts = (
        list(fisher.means.index),
        fisher.n_sequences,
        fisher.estimator,
        fisher.shapes,
        fisher.looped,
        fisher.metadata,
    )
    return [np.asarray(array).tobytes() for array in arrays] + [repr(facts).encode()]


def _surface_bits(surface: gv.Surface) -> list[bytes]:
    arrays = [surface.x, surface.y, surface.loss, surface.standard_error, surface.sequence_losses, surface.evaluated]
    arrays += [surface.metrics[name] for name in sorted(surface.metrics)]
    return [np.asarray(array).tobytes() for array in arrays] + [repr(dict(surface.metadata)).encode()]


def _growing(path: Path) -> None:
    """A surface as a run leaves it that was stopped half-way."""
    lm, batches = _parts()["lm"], _parts()["batches"]
    plane = [gv.random_direction(lm.model, seed=seed) for seed in (0, 1)]
    seen: list[int] = []
    stop = threading.Event()

    def on_point(point: Any) -> None:
        seen.append(1)
        if len(seen) == 5:
            stop.set()

    gv.loss_surface(lm.model, batches, plane, points=3, path=path, on_point=on_point, stop=stop, progress=False)


def _theirs(path: Path) -> None:
    """A surface as the loss-landscape project writes it: no checksums."""
    import h5py

    with h5py.File(path, "w") as file:
        file["dir_file"] = "directions.h5"
        file["xcoordinates"] = file["ycoordinates"] = np.linspace(-1, 1, 4)
        file["train_loss"] = np.arange(16.0).reshape(4, 4)


def _table(path: Path) -> None:
    rows = [f"{text},{k % 2}" for k, text in enumerate(sentences(40))]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")


def _task_rows(path: Path) -> list[str]:
    task = gv.load_task(path)
    return [repr(rows.to_dict()) for rows in task.splits.values()]


def _write_model(folder: Path) -> None:
    _parts()["lm"].save(folder)


def _read_model(folder: Path) -> list[Any]:
    lm = gv.load_pretrained(folder)
    weights = [tensor.detach().numpy().tobytes() for tensor in lm.model.state_dict().values()]
    return [*weights, lm.objective, sorted(lm.tokenizer.get_vocab().items()), lm.model.config.to_json_string()]


def _plain_model(folder: Path) -> None:
    """As any program of transformers writes it: no checksums."""
    _write_model(folder)
    (folder / "checksums.json").unlink()


def _trajectory(path: Path) -> None:
    rng = np.random.default_rng(1)
    Trajectory(rng.random((4, 2)), rng.random(4), rng.random(4)).save(path)


def _sequence_curvature(path: Path) -> None:
    rng = np.random.default_rng(2)
    top = (rng.random((3, 2)), rng.random(3), 5)
    SequenceCurvature(rng.random((3, 2, 2)), rng.random((3, 2)), ("a", "b"), (4, 6), "all", {"top": top}).save(path)


def _sequence_curvature_bits(path: Path) -> list[bytes]:
    found = SequenceCurvature.load(path)
    arrays = [found.traces, found.scores, *(array for part in found.parts.values() for array in part[:2])]
    facts = (found.names, found.sizes, found.label, [(name, part[2]) for name, part in found.parts.items()])
    return [array.tobytes() for array in arrays] + [repr(facts).encode()]


def _landscape_findings(path: Path) -> None:
    from gdrop_viz.studies.landscape_findings import save_findings

    group = {"by": "all", "group": "all"}
    save_findings(
        path,
        {"directions": 2},
        rises=[{"comparison": "c", "moved": "top 1 %", "seed": s, "step": 1.0, "rise": 0.5 + s} for s in (0, 1)],
        curvature=[{**group, "elements": 10, "trace": 3.0, "fisher": 2.0}],
        sequences=[{**group, "traces": [1.0, 5.0], "scores": [0.5, 3.5]}],
    )


def _landscape_findings_rows(path: Path) -> list[str]:
    found = LandscapeFindings.load(path)
    tables = (found.rises, found.curvature, found.sequences)
    return [repr(dict(found.settings)), *(table.to_csv() for table in tables)]


def readers() -> dict[str, Reader]:
    """Every reader of the package with a file for it."""
    from gdrop_viz.finetuning.store import fingerprint

    parts = _parts()
    tensor_version = ((b'\\"version\\": 1', b'\\"version\\": 9'), (b'"version\\": 1', b'"version\\": 9'))
    return {
        "Fisher (safetensors)": Reader(
            parts["fisher"].save, lambda path: _fisher_bits(gv.Fisher.load(path)), "fisher.safetensors",
            versions=tensor_version,
        ),
        "Fisher checkpoint": Reader(_write_checkpoint, _read_checkpoint, "sums.safetensors"),
        "surface (HDF5)": Reader(
            parts["surface"].save, lambda path: _surface_bits(gv.Surface.load(path)), "surface.h5"
        ),
        "surface, half done (HDF5)": Reader(_growing, lambda path: _surface_bits(gv.Surface.load(path)), "half.h5"),
        "selection (safetensors)": Reader(
            gv.top_k(parts["fisher"], 0.1).save,
            lambda path: [repr(s := gv.Selection.load(path)), *(s.mask(n).numpy().tobytes() for n in s.names)],
            "top.safetensors",
        ),
        "direction (safetensors)": Reader(
            gv.random_direction(parts["lm"].model).save,
            lambda path: [repr(d := gv.Direction.load(path)), *(v.numpy().tobytes() for v in d.vectors.values())],
            "direction.safetensors",
        ),
        "trajectory (safetensors)": Reader(
            _trajectory, lambda path: Trajectory.load(path).coordinates.tobytes(), "path.safetensors"
        ),
        "curvature by sequence (safetensors)": Reader(
            _sequence_curvature, _sequence_curvature_bits, "curvature.safetensors", versions=tensor_version
        ),
        "landscape findings (JSON)": Reader(
            _landscape_findings, _landscape_findings_rows, "tiny.json", versions=((b"findings 2", b"findings 3"),)
        ),
        "dropout schedule (JSON)": Reader(
            parts["schedule"].save, lambda path: repr(gv.DropoutSchedule.load(path)), "schedule.json",
            versions=((b"schedule 1", b"schedule 2"),),
        ),
        "finished run (JSON)": Reader(
            _write_run, _read_run, "runs", victim=f"{fingerprint(_RUN)}.json", versions=((b"run 1", b"run 2"),)
        ),
        "comparison (JSON)": Reader(
            lambda path: gv.Comparison(_comparison_table(), "accuracy", {"task": "t"}).save(path),
            lambda path: gv.Comparison.load(path).runs.to_csv(),
            "comparison.json", versions=((b"comparison 1", b"comparison 2"),),
        ),
        "model weights": Reader(_write_model, _read_model, "model", victim="model.safetensors"),
        "model config": Reader(_write_model, _read_model, "model", victim="config.json"),
        "tokenizer": Reader(_write_model, _read_model, "model", victim="tokenizer.json"),
        "model checksums": Reader(_write_model, _read_model, "model", victim="checksums.json"),
        "surface of another program": Reader(
            _theirs, lambda path: _surface_bits(gv.Surface.load(path)), "theirs.h5", unchecked=True
        ),
        "task table (csv)": Reader(_table, _task_rows, "task.csv", unchecked=True),
        "model of another program": Reader(
            _plain_model, _read_model, "model", victim="model.safetensors", unchecked=True
        ),
    }  # fmt: skip


def _comparison_table() -> Any:
    from gdrop_viz.finetuning.run_table import run_table

    return run_table([{"arm": arm, "fraction": 1.0, "seed": 0, **row} for arm in ("a", "b") for row in _rows()])


# --- mutations --------------------------------------------------------------------------------------------------------


def mutations(
    whole: bytes, reader: Reader, *, flips: int, seed: int, every: int = 1
) -> Iterator[tuple[str, bytes | None]]:
    """Damaged versions of a file by name: cut off, empty, foreign, of another version, flipped. None: a folder.

    The first group, with a truncation at `every` so many percent, comes with seed 0 only; `flips` files with 1 to 8
    random bytes changed follow.
    """
    if seed == 0:
        for share in range(0, 100, every):
            yield f"cut to {share} %", whole[: len(whole) * share // 100]
        yield "longer", whole + b"\0" * 100
        yield "zeros", b"\0" * len(whole)
        yield "text", b"not what you think\n" * 10
        yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(200)
        yield "other JSON", b'{"a": [1, 2, {"b": null}]}'
        yield "a JSON list", b"[1, 2, 3]"
        yield "deep JSON", b"[" * 20_000
        yield "random bytes", random.Random(0).randbytes(len(whole))
        yield "a folder", None
        for old, new in reader.versions:
            if old in whole:
                yield f"version {new!r}", whole.replace(old, new)
    rng = random.Random(f"{reader.name} {reader.victim} {seed}")
    for number in range(flips):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
            # headers are where readers go wrong: half of the damage falls on the first and last kilobytes
            n, edge = len(whole), min(2048, len(whole))
            zone = rng.choice((range(n), range(edge), range(n - edge, n)))
            changed[rng.choice(zone)] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256)
        yield f"flipped {seed}.{number}", bytes(changed)


def judge(reader: Reader, path: Path, expected: Any, name: str) -> str:
    """Read a damaged file; returns "refused" or "read as written", raises AssertionError for anything else."""
    try:
        found = reader.read(path)
    except REFUSALS as error:
        text = str(error)
        assert "\n" not in text.strip(), f"{name}: more than one line: {text!r}"
        named = [repr(path.stem) if reader.unchecked else path.name, reader.victim or path.name]
        assert any(one in text for one in named), f"{name}: does not name the file: {text!r}"
        assert len(text) > len(str(path)) + 20, f"{name}: says too little: {text!r}"
        return "refused"
    if reader.unchecked:
        return "read as another valid file" if found != expected else "read as written"
    assert found == expected, f"{name}: a wrong result was read without a word"
    return "read as written"


def trial(kind: str, seed: int, *, flips: int, every: int = 1) -> dict[str, Any]:
    """Try all mutations of one seed on one reader, in forks that may crash; returns counts of what came of them."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    reader = readers()[kind]
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / reader.name
        reader.write(path)
        victim = path / reader.victim if reader.victim else path
        whole = victim.read_bytes()
        expected = reader.read(path)
        cases = list(mutations(whole, reader, flips=flips, seed=seed, every=every))
        log = folder / "log"
        log.touch()
        problems: list[str] = []

        def work(report: Callable[[], None]) -> None:
            with log.open("a") as out:
                for name, content in cases[done:]:
                    _put(victim, content)
                    signal.alarm(SECONDS)  # its default action ends the process, also deep inside a C library
                    try:
                        outcome = judge(reader, path, expected, name)
                    except AssertionError as error:
                        outcome = f"PROBLEM {error}"
                    except BaseException as error:
                        outcome = f"PROBLEM {name}: {type(error).__name__}: {error}"
                    signal.alarm(0)
                    out.write(json.dumps(outcome) + "\n")
                    out.flush()
                    report()

        done = 0
        while done < len(cases):
            ended = run_child(work, seconds=SECONDS * 30)
            done = len(log.read_text().splitlines())
            if done < len(cases):  # the child died at this case
                how = "hangs" if ended.status == -signal.SIGALRM else f"dies ({ended.status}) {ended.error[-200:]}"
                with log.open("a") as out:
                    out.write(json.dumps(f"PROBLEM {cases[done][0]}: the reader {how}") + "\n")
                done += 1
        outcomes = [json.loads(line) for line in log.read_text().splitlines()]
        problems = [outcome for outcome in outcomes if outcome.startswith("PROBLEM")]
        kinds = {name: outcomes.count(name) for name in set(outcomes) - set(problems)}
        failed = f"{len(problems)} of {len(cases)}: {problems[:3]}" if problems else None
        return {"files": len(cases), "kinds": kinds, "failed": failed}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(victim: Path, content: bytes | None) -> None:
    if victim.is_dir():
        shutil.rmtree(victim)
    elif victim.exists():
        victim.unlink()
    if content is None:
        victim.mkdir()
    else:
        victim.write_bytes(content)
    os.utime(victim, ns=(_clock(), _clock()))


_times = iter(range(10**18, 2 * 10**18, 10**6))


def _clock() -> int:
    """A time that no file had before: what was checked once must be checked again."""
    return next(_times)


def campaign(book: Book, *, seeds: int, flips: int, kinds: tuple[str, ...] | None = None) -> None:
    """`seeds` x `flips` flipped files for each reader, and every truncation once."""
    for seed in range(seeds):
        for kind in kinds or readers():
            book.do(f"{kind} {seed}", lambda kind=kind, seed=seed: trial(kind, seed, flips=flips))
