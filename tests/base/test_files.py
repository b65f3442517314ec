"""Is what was written on the device before it takes the place of what was there, and is a whole file never damaged?"""

from __future__ import annotations

import errno
import os

import filelock
import h5py
import numpy as np
import pytest

import gdrop_viz as gv
from gdrop_viz.base.files import atomic_path, check_readable, exclusive, write_errors
from gdrop_viz.base.saved import DamagedFile
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


# --- what the file system refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, error):
    def refused(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    warned = pytest.warns(UserWarning, match=r"cannot lock files: see to it that no other run writes 's\.h5'")
    with warned, exclusive(tmp_path / "s.h5"):
        (tmp_path / "s.h5").write_text("done")
    assert (tmp_path / "s.h5").read_text() == "done"


def test_another_refusal_of_a_lock_is_an_error(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    with pytest.raises(OSError, match="the folder is read-only: choose another path"), exclusive(tmp_path / "s.h5"):
        pass


@pytest.fixture
def surface(tmp_path):
    gv.Surface(np.arange(3.0), None, np.ones(3)).save(tmp_path / "s.h5")
    return tmp_path / "s.h5"


def hdf5_says(monkeypatch, number: int, *, unless=lambda settings: False) -> None:
    """Let HDF5 refuse to open a file, in its own words."""
    real = h5py.File

    def opened(path, mode="r", **settings):
        if unless(settings):
            return real(path, mode, **settings)
        text = f"Unable to synchronously open file (unable to do this, errno = {number}, error message = 'as asked')"
        raise OSError(text)

    monkeypatch.setattr(h5py, "File", opened)


def test_a_surface_is_read_where_files_cannot_be_locked(surface, monkeypatch):
    hdf5_says(monkeypatch, errno.ENOLCK, unless=lambda settings: settings.get("locking") is False)
    assert (gv.Surface.load(surface).loss == 1).all()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EMFILE])
def test_what_the_system_refuses_is_not_called_damaged(surface, monkeypatch, number):
    before = surface.read_bytes()
    hdf5_says(monkeypatch, number)
    with pytest.raises(OSError, match=r"could not open .*s\.h5") as caught:
        gv.Surface.load(surface)
    text = str(caught.value)
    assert os.strerror(number) in text
    assert "kept" in text
    assert not any(word in text for word in ("damaged", "again", "delete"))
    assert surface.read_bytes() == before


def test_a_damaged_surface_is_called_so(surface):
    surface.write_bytes(surface.read_bytes()[:100])
    with pytest.raises(DamagedFile, match="compute the surface again"):
        gv.Surface.load(surface)


def test_a_full_disk_at_a_point_keeps_the_points_before(tiny_bert, tiny_batches, tmp_path, monkeypatch):
    from gdrop_viz.landscape import surface_file

    path, real = tmp_path / "s.h5", surface_file._put_flat
    calls = []

    def full(data, at, value):
        calls.append(at)
        if len(calls) > 9:
            raise RuntimeError("Can't write data (file write failed: No space left on device)")
        real(data, at, value)

    monkeypatch.setattr(surface_file, "_put_flat", full)
    direction = gv.random_direction(tiny_bert)
    with pytest.raises(OSError, match="the disk is full: free some space; the points done before are kept"):
        gv.loss_surface(tiny_bert, tiny_batches, direction, points=5, path=path, progress=False)
    monkeypatch.undo()
    assert gv.Surface.load(path).n_evaluated == 2
    whole = gv.loss_surface(tiny_bert, tiny_batches, direction, points=5, path=path, progress=False)
    assert whole.is_complete


def test_a_folder_in_the_place_of_a_surface(tiny_bert, tiny_batches, tmp_path):
    (tmp_path / "s.h5").mkdir()
    with pytest.raises(FileNotFoundError, match=r"s\.h5', which is a folder; name another file"):
        gv.loss_surface(
            tiny_bert, tiny_batches, gv.random_direction(tiny_bert), points=3, path=tmp_path / "s.h5", progress=False
        )
    assert (tmp_path / "s.h5").is_dir()


def test_no_permission_to_read(tmp_path, monkeypatch):
    """Stood for by the system's answer: an administrator may read everything."""
    (tmp_path / "f").write_text("whole")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(PermissionError, match=r"could not read .*f' \(Permission denied\); nothing in it is touched"):
        check_readable(tmp_path / "f", "expected a note", "write it again")


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), write_errors(tmp_path):
        raise ZeroDivisionError
