"""Are the files that have just come from the hub the ones that it announced?

The hub's client compares sizes only. It names each file of its cache by the checksum that the hub announced (sha256 of
large files, git's sha1 of small ones), so a changed byte can be found by reading what was downloaded once more.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20
_SHA256, _SHA1 = 64, 40  # hex digits


@contextmanager
def verified_downloads(name: str, repo_type: str) -> Iterator[list[Path]]:
    """Check what the repository `name` added to the cache in the meantime; what is damaged is deleted.

    Gives a list for folders that were made from the downloads; they are deleted too if a download was damaged.

    Raises
    ------
    OSError
        "Consistency check failed ...", also in place of the error that the damaged file led to.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type) / "blobs"
    before = set(blobs.glob("*"))
    made_from_them: list[Path] = []
    try:
        yield made_from_them
    except Exception as error:
        _check(set(blobs.glob("*")) - before, made_from_them, error)
        raise
    _check(set(blobs.glob("*")) - before, made_from_them, None)


def _check(files: set[Path], made_from_them: list[Path], error: Exception | None) -> None:
    damaged = [file for file in files if not _is_sound(file)]
    if not damaged:
        return
    for file in damaged:
        file.unlink()
    for folder in made_from_them:
        shutil.rmtree(folder, ignore_errors=True)
    raise OSError(
        f"Consistency check failed: {len(damaged)} of {len(files)} files have another checksum than the hub announced"
    ) from error


def _is_sound(file: Path) -> bool:
    if len(file.name) == _SHA256:
        digest = hashlib.sha256()
    elif len(file.name) == _SHA1:
        digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    else:
        return True  # unfinished, or named by something else than its content
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == file.name
