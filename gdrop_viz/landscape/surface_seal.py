"""Checksums of a surface's file: one of what never changes, and one of each point.

A surface grows point by point in its file, so one checksum of the whole would have to be rewritten with each point,
and a kill between the two writings would make the file look damaged. Files of other programs carry no checksums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gdrop_viz.base.digest import digest

SEAL = "seal"  # digest of coordinates, texts and the names and shapes of the arrays
POINTS = "point_checksums"  # of each point, in the order of train_loss

# the arrays with one row per point, in the order in which a checksum takes them
PER_POINT = ("train_loss", "standard_error", "sequence_losses")


def point_checksum(
    index: int, mean: float, error: float, losses: np.ndarray | None, metrics: Iterable[float], *, known: bool = True
) -> int:
    """64 bits of the digest of everything that is known of the point with this number, and whether it is known."""
    numbers = np.array([mean, error, *metrics], dtype=np.float64)
    return int(digest(index, known, numbers, () if losses is None else np.asarray(losses, dtype=np.float64))[:16], 16)


def all_point_checksums(file: Mapping[str, Any], known: np.ndarray) -> np.ndarray:
    """`point_checksum` of every point of an open HDF5 file, of which `known` (flat) are known."""
    arrays = {name: file[name][()] for name in PER_POINT if name in file}
    losses = arrays.get("sequence_losses", [None] * known.size)
    metrics = [file["metrics"][name][()].ravel() for name in sorted(file["metrics"])]
    means, errors = arrays["train_loss"].ravel(), arrays["standard_error"].ravel()
    return np.array(
        [
            point_checksum(i, means[i], errors[i], losses[i], [m[i] for m in metrics], known=bool(known[i]))
            for i in range(known.size)
        ],
        dtype=np.uint64,
    )


def fixed_checksum(file: Mapping[str, Any]) -> str:
    """The digest of what does not change while a surface grows, of an open HDF5 file."""
    arrays = {name: file[name] for name in (*PER_POINT, "evaluated", POINTS) if name in file}
    arrays.update({f"metrics/{name}": array for name, array in file["metrics"].items()})
    return digest(
        {
            name: np.asarray(file[name][()], dtype=np.float64)
            for name in ("xcoordinates", "ycoordinates")
            if name in file
        },
        {name: file[name][()] for name in ("dir_file", "metadata", "fingerprint") if name in file},
        {name: (array.shape, str(array.dtype)) for name, array in arrays.items()},
    )


def checked_points(file: Mapping[str, Any], marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which points of an open HDF5 file are known, and which hold anything to be read; `marked`: marked as known, flat.

    A point that is whole but not marked was being marked when its run was killed: it is known. One that fits neither
    was being written: it holds nothing. Raises ValueError, in words, if anything has changed since it was written.
    """
    if file[SEAL][()].decode("ascii", "replace") != fixed_checksum(file):
        raise ValueError("its coordinates or texts have changed")
    written = file[POINTS][()].ravel()
    whole = written == all_point_checksums(file, np.ones_like(marked))
    if (changed := np.flatnonzero(marked & ~whole)).size:
        raise ValueError(f"its point {changed[0]} has changed")
    return whole, whole | (written == all_point_checksums(file, np.zeros_like(marked)))
