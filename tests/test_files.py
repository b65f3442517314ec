"""Is what was written on the device before it takes the place of what was there?"""

from __future__ import annotations

import os

import pytest

from gdrop_viz._files import atomic_path


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
