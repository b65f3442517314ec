"""Is a surface's file what was written, to the byte? A checksum of what never changes, and one of each point.

A surface grows point by point in its file, so one checksum of the whole would have to be rewritten with each point,
and a kill between the two writings would make the file look damaged. Files of other programs carry no checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SEAL = "seal"  # sha256 of coordinates, texts and the names and shapes of the arrays
POINTS = "point_checksums"  # of each point, in the order of train_loss

# the arrays with one row per point, in the order in which a checksum takes them
PER_POINT = ("train_loss", "standard_error", "sequence_losses")


def point_checksum(index: int, mean: float, error: float, losses: np.ndarray | None, metrics: Iterable[float]) -> int:
    """64 bits of the sha256 of everything that is known of the point with this number."""
    digest = hashlib.sha256(str(index).encode())
    numbers = [mean, error, *metrics]
    for part in (numbers, () if losses is None else losses):
        digest.update(np.asarray(part, dtype=np.float64).tobytes())
    return int.from_bytes(digest.digest()[:8], "little")


def fixed_checksum(file: Mapping[str, Any]) -> str:
    """The sha256 of what does not change while a surface grows, of an open HDF5 file."""
    digest = hashlib.sha256()
    for name in ("xcoordinates", "ycoordinates"):
        if name in file:
            digest.update(np.asarray(file[name][()], dtype=np.float64).tobytes())
    for name in ("dir_file", "metadata", "fingerprint"):
        if name in file:
            digest.update(f"{name} ".encode())
            digest.update(file[name][()])
    arrays = {name: file[name] for name in (*PER_POINT, "evaluated", POINTS) if name in file}
    arrays.update({f"metrics/{name}": array for name, array in file["metrics"].items()})
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
    return digest.hexdigest()


def difference(file: Mapping[str, Any], known: np.ndarray) -> str | None:
    """What in an open HDF5 file is not as it was written, in words, or None; `known`: which points, flat."""
    if file[SEAL][()].decode("ascii", "replace") != fixed_checksum(file):
        return "its coordinates or texts have changed"
    arrays = {name: file[name][()] for name in PER_POINT if name in file}
    n = known.size
    losses = arrays["sequence_losses"] if "sequence_losses" in arrays else [None] * n
    metrics = [file["metrics"][name][()].ravel() for name in sorted(file["metrics"])]
    means, errors = arrays["train_loss"].ravel(), arrays["standard_error"].ravel()
    written = file[POINTS][()].ravel()
    for index in np.flatnonzero(known):
        found = point_checksum(index, means[index], errors[index], losses[index], [m[index] for m in metrics])
        if found != int(written[index]):
            return f"its point {index} has changed"
    return None
