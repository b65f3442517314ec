"""Pickles where a reader expects a file of its own: none is ever run. Each is tried with one that would.

`test_security.py` looks for unpickling in the sources; here every reader is given one to open.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.commands.report import page_of
from gdrop_viz.curvature import HessianSpectrum, HessianTrace, SpectralDensity
from gdrop_viz.curvature.sequences import SequenceCurvature
from gdrop_viz.finetuning.store import RunStore, fingerprint
from gdrop_viz.landscape.paths import Trajectory
from gdrop_viz.studies import LandscapeFindings


class Payload:
    """Runs a command of the shell when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch '{marker}'"

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def archive(payload: Payload) -> bytes:
    """As torch.save writes it: a zip file with a pickle inside."""
    buffer = io.BytesIO()
    torch.save({"weight": payload}, buffer)
    return buffer.getvalue()


def objects(payload: Payload) -> bytes:
    """As numpy writes an array of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload], dtype=object), allow_pickle=True)
    return buffer.getvalue()


DISGUISES: dict[str, Callable[[Payload], bytes]] = {
    "text": lambda payload: pickle.dumps(payload, protocol=0),
    "bytes": lambda payload: pickle.dumps(payload, protocol=5),
    "torch.save": archive,
    "numpy.save": objects,
}


def _run_of(folder: Path) -> object:
    return list(RunStore.open(folder).all())


# name of the file in its folder -> how it is opened; "folder" readers get the folder
READERS: dict[str, tuple[str, Callable]] = {
    "Fisher": ("f.safetensors", lambda path, lm, batches: gv.Fisher.load(path)),
    "Fisher checkpoint": (
        "c.safetensors",
        lambda path, lm, batches: gv.fisher_information(lm.model, batches, checkpoint=path, progress=False),
    ),
    "selection": ("s.safetensors", lambda path, lm, batches: gv.Selection.load(path)),
    "direction": ("d.safetensors", lambda path, lm, batches: gv.Direction.load(path)),
    "trajectory": ("t.safetensors", lambda path, lm, batches: Trajectory.load(path)),
    "curvature by sequence": ("q.safetensors", lambda path, lm, batches: SequenceCurvature.load(path)),
    "spectrum": ("e.safetensors", lambda path, lm, batches: HessianSpectrum.load(path)),
    "trace": ("h.safetensors", lambda path, lm, batches: HessianTrace.load(path)),
    "density": ("p.safetensors", lambda path, lm, batches: SpectralDensity.load(path)),
    "weights of a checkpoint": (
        "w.safetensors",
        lambda path, lm, batches: gv.project_trajectory(
            lm.model, [path], [gv.random_direction(lm.model, seed=seed) for seed in (0, 1)]
        ),
    ),
    "surface": ("s.h5", lambda path, lm, batches: gv.Surface.load(path)),
    "surface to go on with": (
        "g.h5",
        lambda path, lm, batches: gv.loss_surface(
            lm.model, batches, gv.random_direction(lm.model), points=3, path=path, progress=False
        ),
    ),
    "schedule": ("schedule.json", lambda path, lm, batches: gv.DropoutSchedule.load(path)),
    "comparison": ("comparison.json", lambda path, lm, batches: gv.Comparison.load(path)),
    "finished run": (f"{fingerprint({'seed': 0})}.json", lambda path, lm, batches: _run_of(path.parent)),
    "findings": ("tiny.json", lambda path, lm, batches: LandscapeFindings.load(path)),
    **{
        f"task ({ending})": (f"task.{ending}", lambda path, lm, batches: gv.load_task(path))
        for ending in ("csv", "tsv", "json", "jsonl", "parquet")
    },
    **{
        f"texts ({ending})": (
            f"texts.{ending}",
            lambda path, lm, batches: gv.pretraining_batches(lm, path, max_length=12, n_sequences=4, progress=False),
        )
        for ending in ("csv", "jsonl", "parquet", "txt")
    },
}
ERRORS = (ValueError, RuntimeError, OSError)


@pytest.fixture
def payload(tmp_path) -> Payload:
    return Payload(tmp_path / "it ran")


@pytest.mark.parametrize("disguise", DISGUISES)
def test_each_of_them_would_run(tmp_path, payload, disguise):
    """Where somebody unpickles it, that is: otherwise the tests below would show nothing."""
    content = DISGUISES[disguise](payload)
    if disguise == "torch.save":
        torch.load(io.BytesIO(content), weights_only=False)
    elif disguise == "numpy.save":
        np.load(io.BytesIO(content), allow_pickle=True)
    else:
        pickle.loads(content)
    assert (tmp_path / "it ran").exists()


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("kind", READERS)
def test_a_reader_refuses_it_in_one_line(tmp_path, tiny_lm, tiny_batches, payload, kind, disguise):
    name, read = READERS[kind]
    path = tmp_path / "there" / name
    path.parent.mkdir()
    path.write_bytes(DISGUISES[disguise](payload))
    with pytest.raises(ERRORS) as error:
        read(path, tiny_lm, list(tiny_batches))
    assert not (tmp_path / "it ran").exists()
    assert "\n" not in str(error.value).strip()
    assert path.stem in str(error.value)


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("victim", ["model.safetensors", "config.json", "tokenizer.json", "checksums.json"])
def test_a_part_of_a_model(tmp_path, tiny_lm, payload, victim, disguise):
    folder = tiny_lm.save(tmp_path / "model")
    if victim != "checksums.json":
        (folder / "checksums.json").unlink()
    (folder / victim).write_bytes(DISGUISES[disguise](payload))
    with pytest.raises(ERRORS) as error:
        gv.load_pretrained(folder)
    assert not (tmp_path / "it ran").exists()
    assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize("disguise", ["text", "bytes", "torch.save"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl"])
def test_pickles_beside_the_weights(tmp_path, tiny_lm, payload, name, disguise):
    """Weights in the old form are opened without running what they hold; the others are not opened at all."""
    folder = tiny_lm.save(tmp_path / "model")
    (folder / "checksums.json").unlink()
    (folder / name).write_bytes(DISGUISES[disguise](payload))
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        with pytest.raises(ERRORS, match="model"):
            gv.load_pretrained(folder)
    else:
        gv.load_pretrained(folder)
    assert not (tmp_path / "it ran").exists()


def test_weights_in_the_old_form_are_read(tmp_path, tiny_lm):
    """So that the refusals above are those of what they hold."""
    folder = tiny_lm.save(tmp_path / "model")
    for name in ("checksums.json", "model.safetensors"):
        (folder / name).unlink()
    torch.save(tiny_lm.model.state_dict(), folder / "pytorch_model.bin")
    found = gv.load_pretrained(folder).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tiny_lm.model.state_dict().items())


def test_a_parquet_table_whose_column_is_an_extension_type(tmp_path, payload):
    """Arrow once made the type of such a column from a pickle (CVE-2023-47248)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(payload)}
    texts = pa.field("text", pa.string(), metadata=kind)
    schema = pa.schema([texts, pa.field("label", pa.int64())])
    rows = [[f"a cat of number {n}" for n in range(40)], [n % 2 for n in range(40)]]
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in rows], schema=schema), tmp_path / "t.parquet")
    assert len(gv.load_task(tmp_path / "t.parquet").train) == 32
    assert not (tmp_path / "it ran").exists()


def test_settings_and_reports(tmp_path, payload):
    from typer.testing import CliRunner

    from gdrop_viz.__main__ import app

    settings = tmp_path / "settings.yaml"
    settings.write_text(f'model: !!python/object/apply:os.system ["{payload.command}"]\n')
    done = CliRunner().invoke(app, ["fisher", "--config", str(settings), "--output", str(tmp_path / "results")])
    assert done.exit_code == 2, done.output
    results = tmp_path / "results"
    results.mkdir()
    for name in ("fisher.safetensors", "s.h5", "schedule.json", "comparison.json", "fisher.json"):
        (results / name).write_bytes(DISGUISES["bytes"](payload))
    html = page_of(results, "mine").html()
    assert "fisher.safetensors was left out" in html
    assert not (tmp_path / "it ran").exists()
