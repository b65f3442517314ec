"""Atomic writing and exclusive use of files: no crash, full disk or second process leaves half a result."""

from __future__ import annotations

import errno
import glob
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

# what the operating system says where a file cannot be written, and what a person can do about it
_WHY = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file is larger than this system allows: free some space or raise the limit",
    errno.EROFS: "the folder is read-only: choose another path",
    errno.EACCES: "permission is denied: choose another path or change the folder's permissions",
    errno.EPERM: "permission is denied: choose another path or change the folder's permissions",
    errno.EIO: "the device reports an error: check the disk or choose another path",
}

# what a file system answers that cannot lock files
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_UNTOUCHED = "what lay there before is untouched"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the target's folder; on success it is synced and renamed onto `path`.

    A reader sees the old file or the new one, never a part; after an exception the old file stays and the
    temporary one is gone. Only SIGKILL leaves the temporary file (its name begins with a dot), which nothing reads.

    Raises
    ------
    OSError
        In one line, with the file and the remedy, if the disk is full, read-only or failing; IsADirectoryError if
        `path` is a folder.

    >>> folder = tempfile.mkdtemp()
    >>> with atomic_path(Path(folder) / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected the name of a file to write, but {str(path)!r} is a folder; name a file")
    temporary: Path | None = None
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            _sync(temporary)
            # mkstemp makes private files; results are ordinary files, as `open` would have made them
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
    logger.debug("wrote %s", path)


def check_readable(path: str | os.PathLike[str], expected: str, remedy: str) -> None:
    """Raise FileNotFoundError or OSError, in one line, unless `path` is a file whose bytes this process can read.

    What a library that reads it says afterwards is then about its content. The system's refusal (no permission, a
    failing device) says nothing of the content, and must not be taken for damage.

    >>> check_readable("none.json", "expected a schedule", "make it first")
    Traceback (most recent call last):
    FileNotFoundError: expected a schedule, got 'none.json', which does not exist; make it first
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        found = "is a folder" if os.path.isdir(name) else "does not exist"
        raise FileNotFoundError(f"{expected}, got {name!r}, which {found}; {remedy}")
    try:
        with open(name, "rb") as file:
            file.read(1)
    except OSError as error:
        raise type(error)(
            error.errno, f"could not read {name!r} ({error.strerror}); nothing in it is touched"
        ) from error


@contextmanager
def write_errors(path: str | os.PathLike[str], kept: str = _UNTOUCHED) -> Iterator[None]:
    """Turn what the system says inside about writing `path` into one line with the remedy, and with what is `kept`."""
    try:
        yield
    except Exception as error:
        if (number := _errno_of(error)) is None:
            raise
        raise OSError(number, f"could not write {os.fspath(path)!r}: {_WHY[number]}; {kept}") from error


@contextmanager
def exclusive(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[None]:
    """Hold `path` (a results file, or a folder of them) for this run; another run that wants it is refused at once.

    The lock is the operating system's on a hidden file beside the results, so a killed process holds nothing, and
    whatever it left half-written there is cleared away.

    Raises
    ------
    RuntimeError
        If another process, or another thread of this one, is writing there.
    OSError
        If nothing can be written there: said before the work, not after it.

    >>> place = Path(tempfile.mkdtemp()) / "run.h5"
    >>> with exclusive(place), exclusive(place):
    ...     pass
    Traceback (most recent call last):
    RuntimeError: ...run.h5' is being written by another run...
    """
    from filelock import FileLock, Timeout

    path = Path(path).absolute()
    home, name = (path, "*.json") if folder else (path.parent, glob.escape(path.name))
    file = home / (".gdrop_viz.lock" if folder else f".{path.name}.lock")
    with write_errors(path):
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RuntimeError(
                f"{str(path)!r} is being written by another run; wait for its end, stop it, or choose another path"
            ) from None
        except (OSError, NotImplementedError) as error:  # the second is filelock's word for it
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            warnings.warn(
                f"the file system of {str(home)!r} cannot lock files: see to it that no other run writes {path.name!r}",
                stacklevel=3,
            )
    try:
        for left in home.glob(f".{name}.????????{Path(name).suffix}"):  # of a run that was killed: see atomic_path
            left.unlink(missing_ok=True)
        yield
    finally:
        # before the release: filelock takes no lock on a file that has lost its name
        with suppress(OSError):
            file.unlink()
        lock.release()


def _sync(path: Path) -> None:
    """Have the operating system write a file, or a folder's names, to the device."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some file systems cannot sync a folder
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _errno_of(error: Exception) -> int | None:
    """The system's error number behind `error`, if it is one that a full or read-only disk gives.

    Libraries that write for us (safetensors, HDF5) tell it in their message only.
    """
    if isinstance(error, OSError) and error.errno in _WHY:
        return error.errno
    text = str(error)
    return next((number for number in _WHY if os.strerror(number) in text), None)


def file_stem(label: str) -> str:
    """Return `label` as the stem of a file: it can name no other folder, whatever it holds.

    >>> file_stem("org/model, top 1 %")
    'org_model__top_1__'
    """
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in label)
