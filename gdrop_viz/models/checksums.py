"""Checksums of the files of a model or task: their sha256, written beside them and compared when they are read.

A flipped bit in weights, a vocabulary or a table would otherwise go unseen: the file stays valid, the numbers change.
"""

from __future__ import annotations

import json
from pathlib import Path

from gdrop_viz.base.digest import file_digest
from gdrop_viz.base.files import atomic_path
from gdrop_viz.base.saved import DamagedFile
from gdrop_viz.models.bundled import data_folder

NAME = "checksums.json"
_checked: dict[Path, tuple[int, int]] = {}  # file -> size and time of the last change when it was last sound


def write_checksums(folder: Path) -> None:
    """Put the sha256 of every file in `folder` into its checksums.json."""
    sums = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != NAME}
    with atomic_path(folder / NAME) as temporary:
        temporary.write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def verify(path: Path) -> None:
    """Raise DamagedFile if a file (or one in the folder) `path` differs from its checksum, or is missing.

    Checksums are looked for in the folder itself and, for bundled data, in the data folder. What has none is taken as
    it is. A file is read again only after it has changed.
    """
    path = path.resolve()
    for sums_file, inside in ((path / NAME, path), (data_folder() / NAME, path)):
        if not sums_file.is_file():
            continue
        try:
            sums = json.loads(sums_file.read_text(encoding="utf-8"))
            stated = {(sums_file.parent / name).resolve(): str(digest) for name, digest in sums.items()}
        except (ValueError, AttributeError, TypeError, RecursionError, OSError) as error:
            raise DamagedFile(f"{sums_file} is damaged ({error}); {_remedy(sums_file)}") from None
        for file, digest in stated.items():
            if file == inside or inside in file.parents:
                _verify_file(file, digest, sums_file)


def _verify_file(file: Path, digest: str, sums_file: Path) -> None:
    if not file.is_file():
        raise DamagedFile(f"{file} is missing, though {sums_file} names it; {_remedy(sums_file)}")
    state = file.stat()
    now = (state.st_size, state.st_mtime_ns)
    if _checked.get(file) == now:
        return
    if file_digest(file) != digest:
        raise DamagedFile(f"{file} is damaged: its checksum does not fit {sums_file}; {_remedy(sums_file)}")
    _checked[file] = now


def _remedy(sums_file: Path) -> str:
    return f"restore the folder from its source, or delete {sums_file.name} if you changed it on purpose"
