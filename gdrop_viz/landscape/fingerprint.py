"""Does a file on disk belong to this computation? Checksums of model, text and directions, and what differs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gdrop_viz.base.digest import feed_tensors


def check_same(path: Path, there: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raise ValueError, naming what differs, unless the file at `path` was written by the same computation."""
    advice = "give another path, or delete the file to compute the surface anew"
    if there is None:
        raise ValueError(
            f"expected {os.fspath(path)!r} to be a surface of this computation, got a file from elsewhere; {advice}"
        )
    changed = [name for name in now if there.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"expected {os.fspath(path)!r} to continue the same computation, got a file with other "
            f"{', '.join(changed)}; {advice}"
        )


def text_checksum(batches: Any, kept: Sequence[Mapping[str, Tensor]]) -> str:
    """The sha256 of the text: the batches' own, or that of their tensors."""
    if isinstance(checksum := getattr(batches, "checksum", None), str):
        return checksum
    return hashlib.sha256("".join(map(tensors_checksum, kept)).encode()).hexdigest()


def tensors_checksum(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, types, shapes and bits."""
    digest = hashlib.sha256()
    feed_tensors(digest, tensors.items())
    return digest.hexdigest()
