"""Is what was written on the device before it takes the place of what was there?"""

from __future__ import annotations

import os

import pytest

import gdrop_viz as gv
from gdrop_viz.base.files import atomic_path
from gdrop_viz.landscape.surface_file import PointWriter


def test_the_file_is_synced_before_it_is_renamed_and_its_folder_afterwards(tmp_path, monkeypatch):
    """After a power cut a renamed but unsynced file may be empty; no SIGKILL shows that."""
    happened, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (happened.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle))[1]
    )
    monkeypatch.setattr(os, "replace", lambda old, new: (happened.append("rename"), replace(old, new))[1])
    target = tmp_path / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        name = str(temporary)
    assert happened == [name, "rename", str(tmp_path)]
    assert target.read_text() == "whole"


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def broken(error):
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            broken(error)
        assert os.listdir(tmp_path) == ["a.txt"]
        assert target.read_text() == "old"


@pytest.mark.parametrize(("seconds", "before_the_end"), [(-1.0, 5), (1e9, 0)])
def test_a_surface_is_synced_now_and_then_and_at_its_end(
    tiny_bert, tiny_batches, tmp_path, monkeypatch, seconds, before_the_end
):
    """Its points are put into the file in place, so that no renaming syncs them."""
    path, synced, sync = tmp_path / "s.h5", [], os.fsync
    monkeypatch.setattr(PointWriter, "_SYNC_SECONDS", seconds)
    direction = gv.random_direction(tiny_bert)

    def watched(handle):
        if os.readlink(f"/proc/self/fd/{handle}") == str(path):
            synced.append(path.read_bytes())
        sync(handle)

    counts = []

    def on_point(point):
        counts.append(len(synced))

    monkeypatch.setattr(os, "fsync", watched)
    gv.loss_surface(tiny_bert, tiny_batches, direction, points=5, path=path, progress=False, on_point=on_point)
    assert counts[-1] == before_the_end
    assert len(synced) == before_the_end + 1
    assert synced[-1] == path.read_bytes()  # nothing was written after it
