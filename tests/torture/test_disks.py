"""Full, read-only and limited disks: nothing is lost, and one line says what to do."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gdrop_viz as gv
from tests.torture import damage
from tests.torture.children import run_child

FULL = "the disk is full: free some space"


def writers() -> dict[str, Callable[[Path], object]]:
    parts = damage._parts()
    return {
        "fisher.safetensors": parts["fisher"].save,
        "schedule.json": parts["schedule"].save,
        "surface.h5": parts["surface"].save,
        "surface.csv": parts["surface"].save,
        "direction.safetensors": gv.random_direction(parts["lm"].model).save,
        "comparison.json": gv.Comparison(damage._comparison_table(), "accuracy").save,
    }


NAMES = ["fisher.safetensors", "schedule.json", "surface.h5", "surface.csv", "direction.safetensors", "comparison.json"]


def refused(write: Callable[[Path], object], path: Path, why: str) -> None:
    """The error of a write that cannot succeed: one line with file and remedy; the old file and nothing else stays."""
    before = path.read_bytes() if path.exists() else None
    beside = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
    with pytest.raises(OSError, match=f"{re.escape(path.name)}.*{why}") as error:
        write(path)
    assert "\n" not in str(error.value)
    assert (path.read_bytes() if path.exists() else None) == before
    assert set(os.listdir(path.parent)) == beside, "something is left behind"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_may_not_grow(tmp_path, name):
    path, write = tmp_path / name, writers()[name]
    write(path)

    def work(report):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        refused(write, path, "free some space")

    ended = run_child(work)
    assert ended.status == 0, ended.error


# --- a file system of its own -----------------------------------------------------------------------------------------


class Disk:
    """A small file system that can be filled to the last page, and emptied again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        (self.folder / "filler").unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """256 kB in memory; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if not done or done.returncode:
        pytest.skip("mounting a small file system is not allowed here (it needs root)")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("there_already", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(disk, name, there_already):
    path, write = disk.folder / name, writers()[name]
    if there_already:
        write(path)
    disk.fill()
    refused(write, path, FULL)
    disk.empty()
    write(path)
    assert [file.name for file in disk.folder.iterdir()] == [name]


def test_a_disk_that_is_full_in_an_estimation(disk, monkeypatch):
    """What its last checkpoint holds is kept, and the same call goes on from there to the same bits."""
    from gdrop_viz.fisher.run import Run

    parts = damage._parts()
    path, real, taken = disk.folder / "c.safetensors", Run.add_batch, []

    def taking(self, batch, index):
        real(self, batch, index)
        taken.append(index)
        if len(taken) == 2:  # the first batch is in the file, the second will not be
            disk.fill()

    settings = {"checkpoint": path, "checkpoint_seconds": 0, "method": "batched", "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_batch", taking)
        with pytest.raises(OSError, match=rf"c\.safetensors.*{FULL}"):
            gv.fisher_information(parts["lm"].model, parts["batches"], **settings)
    assert taken == [0, 1]
    assert {file.name for file in disk.folder.iterdir()} == {"c.safetensors", "filler"}
    disk.empty()
    taken.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_batch", lambda self, batch, index: (taken.append(index), real(self, batch, index)))
        found = gv.fisher_information(parts["lm"].model, parts["batches"], **settings)
    assert taken == [1]
    whole = gv.fisher_information(parts["lm"].model, parts["batches"], method="batched", progress=False)
    assert damage._fisher_bits(found) == damage._fisher_bits(whole)


def test_a_disk_that_is_full_before_or_in_a_surface(disk):
    """It is said before any work; and a surface that has begun has all its room already."""
    parts = damage._parts()
    model, batches, plane = parts["lm"].model, parts["batches"], gv.random_direction(parts["lm"].model)
    settings = {"points": 5, "path": disk.folder / "s.h5", "progress": False}
    disk.fill()
    with pytest.raises(OSError, match=rf"s\.h5.*{FULL}"):
        gv.loss_surface(
            model, batches, plane, on_point=lambda _: pytest.fail("work was done that cannot be kept"), **settings
        )
    assert [file.name for file in disk.folder.iterdir()] == ["filler"]
    disk.empty()
    gv.loss_surface(model, batches, plane, on_point=lambda point: point.n_done == 1 and disk.fill(), **settings)
    kept = gv.Surface.load(disk.folder / "s.h5")
    assert kept.is_complete
    whole = gv.loss_surface(model, batches, plane, points=5, progress=False)
    assert (kept.sequence_losses == whole.sequence_losses).all()


def test_a_disk_that_is_full_in_a_comparison(disk):
    """The finished run is kept, the one that cannot be written is named, and only that one is repeated."""
    from tests.torture.kills import _lm, _task

    settings = {"seeds": [0], "epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "progress": False}
    arms, path, trained = {"a": 0.1, "b": 0.2}, disk.folder / "runs", []

    def listen(event):
        if event.kind == "run started":
            trained.append(event.arm)
        if event.kind == "run finished":
            disk.fill()

    def listen_again(event):
        if event.kind == "run started":
            trained.append(event.arm)

    with pytest.raises(OSError, match=rf"runs/[0-9a-f]+\.json.*{FULL}"):
        gv.compare(_lm(), _task(), arms, path=path, on_event=listen, **settings)
    assert trained == ["a", "b"]
    assert [len(file.stem) for file in path.iterdir()] == [20]  # no half file, no lock
    disk.empty()
    trained.clear()
    result = gv.compare(_lm(), _task(), arms, path=path, on_event=listen_again, **settings)
    assert trained == ["b"]
    assert result.metadata["complete"]
    assert result.scores().equals(gv.compare(_lm(), _task(), arms, **settings).scores())


def test_a_read_only_disk(disk):
    writers()["schedule.json"](disk.folder / "schedule.json")
    subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
    for name, write in writers().items():
        refused(write, disk.folder / name, "read-only")
    parts = damage._parts()
    # before the work, not after it
    with pytest.raises(OSError, match=r"s\.h5.*read-only"):
        gv.loss_surface(
            parts["lm"].model, parts["batches"], gv.random_direction(parts["lm"].model), points=3, progress=False,
            path=disk.folder / "s.h5", on_point=lambda point: pytest.fail("work was done that cannot be kept"),
        )  # fmt: skip
    with pytest.raises(OSError, match=r"c\.st.*read-only"):
        gv.fisher_information(parts["lm"].model, parts["batches"], checkpoint=disk.folder / "c.st", progress=False)
    assert gv.DropoutSchedule.load(disk.folder / "schedule.json").rates  # reading needs no lock
