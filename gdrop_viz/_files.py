"""How does a result reach the disk so that a crash never leaves half a file?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the target's folder; on success it is synced and renamed onto `path`.

    A reader sees the old file or the new one, never a part; after an exception the old file stays and the
    temporary one is gone.

    >>> folder = tempfile.mkdtemp()
    >>> with atomic_path(Path(folder) / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; results are ordinary files, as `open` would have made them
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
