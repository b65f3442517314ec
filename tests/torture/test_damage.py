"""Is a damaged file refused by every reader, and does a full or read-only disk lose nothing?"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess

import pytest

import gdrop_viz as gv
from gdrop_viz._files import exclusive
from tests.torture import damage, guards
from tests.torture.children import run_child

SLOW = {"model of another program", "task table (csv)"}


@pytest.mark.parametrize("kind", sorted(damage.readers()))
def test_no_damage_goes_unseen(kind):
    outcome = damage.trial(kind, 0, flips=4 if kind in SLOW else 30, every=25 if kind in SLOW else 7)
    assert outcome["failed"] is None
    assert outcome["kinds"]["refused"] >= 10


@pytest.mark.parametrize(
    ("guard", "kind"),
    [
        ("checksums of tensors", "Fisher (safetensors)"),
        ("checksums of tensors", "Fisher checkpoint"),
        ("checksums of JSON", "dropout schedule (JSON)"),
        ("checksums of JSON", "comparison (JSON)"),
        ("checksums of points", "surface (HDF5)"),
        ("checksums of model files", "model weights"),
    ],
)
def test_it_fails_without_the_guard(guard, kind):
    with guards.removed(guard):
        outcome = damage.trial(kind, 1, flips=80)
    assert "wrong result" in (outcome["failed"] or "") or "does not name" in (outcome["failed"] or "")


# --- disks ------------------------------------------------------------------------------------------------------------


def writers():
    parts = damage._parts()
    return {
        "fisher.safetensors": parts["fisher"].save,
        "schedule.json": parts["schedule"].save,
        "surface.h5": parts["surface"].save,
        "surface.csv": parts["surface"].save,
        "direction.safetensors": gv.random_direction(parts["lm"].model).save,
        "comparison.json": gv.Comparison(damage._comparison_table(), "accuracy").save,
    }


def refused(write, path, why):
    """The error of a write that cannot succeed: one line with file and remedy; the old file and nothing else stays."""
    before = path.read_bytes() if path.exists() else None
    beside = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
    with pytest.raises(OSError, match=f"{re.escape(path.name)}.*{why}"):
        write(path)
    assert (path.read_bytes() if path.exists() else None) == before
    assert set(os.listdir(path.parent)) == beside, "something is left behind"


@pytest.mark.parametrize(
    "name", ["fisher.safetensors", "schedule.json", "surface.h5", "surface.csv", "comparison.json"]
)
def test_a_file_that_may_not_grow(tmp_path, name):
    path, write = tmp_path / name, writers()[name]
    write(path)

    def work(report):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        refused(write, path, "free some space")

    ended = run_child(work)
    assert ended.status == 0, ended.error


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 kB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True)
    if not done or done.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["fisher.safetensors", "direction.safetensors"])
def test_a_full_disk(small_disk, name):
    refused(writers()[name], small_disk / name, "the disk is full")


def test_a_read_only_disk(small_disk):
    writers()["schedule.json"](small_disk / "schedule.json")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name, write in writers().items():
        refused(write, small_disk / name, "read-only")
    parts = damage._parts()
    # before the work, not after it
    with pytest.raises(OSError, match=r"s\.h5.*read-only"):
        gv.loss_surface(
            parts["lm"].model, parts["batches"], gv.random_direction(parts["lm"].model), points=3, progress=False,
            path=small_disk / "s.h5", on_point=lambda point: pytest.fail("work was done that cannot be kept"),
        )  # fmt: skip
    with pytest.raises(OSError, match=r"c\.st.*read-only"):
        gv.fisher_information(parts["lm"].model, parts["batches"], checkpoint=small_disk / "c.st", progress=False)
    assert gv.DropoutSchedule.load(small_disk / "schedule.json").rates  # reading needs no lock


# --- two at once ------------------------------------------------------------------------------------------------------


def test_two_processes_do_not_share_a_results_folder(tmp_path):
    from tests.torture.kills import _lm, _task

    parts = damage._parts()
    lm, batches = parts["lm"], parts["batches"]

    def refuse(report):
        with pytest.raises(RuntimeError, match="being written by another run"):
            gv.compare(_lm(), _task(), {"a": 0.1}, seeds=[0], path=tmp_path, progress=False)
        with pytest.raises(RuntimeError, match=r"s\.h5.*being written by another run"):
            gv.loss_surface(lm.model, batches, gv.random_direction(lm.model), path=tmp_path / "s.h5", progress=False)
        with pytest.raises(RuntimeError, match=r"c\.st.*being written by another run"):
            gv.fisher_information(lm.model, batches, checkpoint=tmp_path / "c.st", progress=False)

    paths = [(tmp_path, True), (tmp_path / "s.h5", False), (tmp_path / "c.st", False)]
    with contextlib.ExitStack() as held:
        for path, folder in paths:
            held.enter_context(exclusive(path, folder=folder))
        ended = run_child(refuse)
        assert ended.status == 0, ended.error
    assert list(tmp_path.iterdir()) == []  # locks are cleared away

    # a killed process holds nothing
    def hold(report):
        exclusive(tmp_path, folder=True).__enter__()
        report()
        os.kill(os.getpid(), 9)

    assert run_child(hold).status == -9
    with exclusive(tmp_path, folder=True):
        pass
