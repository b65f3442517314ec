"""Files of surfaces: HDF5 in the layout of the loss-landscape project; CSV and VTK for other programs.

Layout (github tomgoldstein/loss-landscape): `xcoordinates` (nx,), `ycoordinates` (ny,) for a plane, `train_loss`,
`dir_file`; -1 marks a point that is not known. In `train_loss` x varies fastest: the value at x[i], y[j] is number
j * nx + i of the flattened array. That project declares the array as (nx, ny), which for nx != ny is NOT its indexing;
others store it flat. Read by position, both are the same. Beside these, this package keeps `standard_error`,
`sequence_losses` (points, N), `evaluated`, `metrics/*` in the same order, `metadata` and `fingerprint` as JSON, and
checksums of all that (see `surface_seal`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gdrop_viz.base.files import NO_LOCKS, atomic_path, check_readable, write_errors
from gdrop_viz.base.saved import DamagedFile
from gdrop_viz.landscape.surface_data import SurfaceData
from gdrop_viz.landscape.surface_seal import (
    POINTS,
    SEAL,
    all_point_checksums,
    checked_points,
    fixed_checksum,
    point_checksum,
)

UNKNOWN = -1.0
_LOCK_SECONDS = 30.0
_REMEDY = "name another file, or compute the surface again"
_OURS = ("standard_error", "sequence_losses", "evaluated", "metadata", "fingerprint", "metrics", SEAL, POINTS)
_LAYOUT = ("xcoordinates", "ycoordinates", "train_loss", "dir_file")


def write(surface: SurfaceData, path: str | os.PathLike[str], *, fingerprint: Mapping[str, Any] | None = None) -> None:
    """Write `surface` to `path` by its ending: .h5 / .hdf5, .csv or .vts; the old file stays until the new is whole."""
    path = Path(path)
    writers = {".h5": _write_hdf5, ".hdf5": _write_hdf5, ".csv": _write_csv, ".vts": _write_vtk}
    if path.suffix not in writers:
        raise ValueError(f"expected a path that ends in {', '.join(writers)}, got {os.fspath(path)!r}")
    with atomic_path(path) as temporary:
        writers[path.suffix](surface, temporary)
        if path.suffix in (".h5", ".hdf5"):
            with _opened(temporary, "r+") as file:
                if fingerprint is not None:
                    file["fingerprint"] = json.dumps(fingerprint)
                file[SEAL] = fixed_checksum(file)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of an HDF5 surface in any of the layouts above; see `Surface.load` for what is raised."""
    with _opened(path, "r") as file:
        try:
            return _fields(file, path)
        except DamagedFile:
            raise
        except Exception as error:  # what HDF5 and numpy say about a damaged file takes many forms
            why = " ".join(str(error).split())[:200]
            raise DamagedFile(f"expected a readable surface, got {os.fspath(path)!r} ({why}); {_REMEDY}") from None


def _fields(file: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    _refuse_pointers(file, path)
    missing = [name for name in ("xcoordinates", "train_loss") if name not in file]
    if missing:
        raise DamagedFile(
            f"expected a surface in loss-landscape's layout, got {os.fspath(path)!r} without {missing[0]!r}"
        )
    x = file["xcoordinates"][()]
    y = file["ycoordinates"][()] if "ycoordinates" in file else None
    shape = (len(x),) if y is None else (len(x), len(y))
    n_points = int(np.prod(shape))

    def plane(values: np.ndarray) -> np.ndarray:
        return values if y is None else values.reshape(len(y), len(x), *values.shape[1:]).swapaxes(0, 1).copy()

    if file["train_loss"].size != n_points:
        raise DamagedFile(
            f"expected train_loss with {n_points} values for {shape} coordinates, got {file['train_loss'].size} "
            f"in {os.fspath(path)!r}; the file is damaged or of another kind"
        )
    flat = file["train_loss"][()].astype(np.float64).ravel()
    known = file["evaluated"][()].astype(bool).ravel() if "evaluated" in file else flat != UNKNOWN
    readable = np.ones_like(known)
    if SEAL in file or POINTS in file:
        try:
            known, readable = checked_points(file, known)
        except (ValueError, KeyError) as error:
            raise DamagedFile(f"{os.fspath(path)!r} is damaged ({error}); {_REMEDY}") from None
    metadata = json.loads(file["metadata"][()]) if "metadata" in file else {}
    if "dir_file" in file and "metadata" not in file:
        name = file["dir_file"][()]
        metadata["dir_file"] = name.decode() if isinstance(name, bytes) else str(name)
    others = {name: data for name, data in file.items() if name not in _OURS + _LAYOUT}
    others.update(file.get("metrics", {}))
    fields = {
        "x": x,
        "y": y,
        "loss": plane(np.where(known, flat, np.nan)),
        "metrics": {
            name: plane(np.where(known, data[()].ravel(), np.nan))
            for name, data in others.items()
            if getattr(data, "size", None) == n_points
        },
        "evaluated": plane(known),
        "metadata": metadata,
    }
    if "standard_error" in file:
        fields["standard_error"] = plane(np.where(readable, file["standard_error"][()].ravel(), np.nan))
    if "sequence_losses" in file:
        fields["sequence_losses"] = plane(np.where(readable[:, np.newaxis], file["sequence_losses"][()], np.nan))
    return fields


def _refuse_pointers(group: Any, path: str | os.PathLike[str]) -> None:
    """HDF5 can name any other file of this machine as the place of its data: nobody's surface needs that."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        item = group[name] if isinstance(link, h5py.HardLink) else None
        elsewhere = isinstance(item, h5py.Dataset) and (item.external is not None or item.is_virtual)
        if item is None or elsewhere:
            raise DamagedFile(f"{os.fspath(path)!r} points at other data with {name!r} and is not read; {_REMEDY}")
        if isinstance(item, h5py.Group):
            _refuse_pointers(item, path)


def read_fingerprint(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what the computation of the file at `path` depended on; None for a file from elsewhere."""
    with _opened(path, "r") as file:
        try:
            _refuse_pointers(file, path)
            return json.loads(file["fingerprint"][()]) if "fingerprint" in file else None
        except DamagedFile:
            raise
        except Exception as error:  # as in `read`
            raise DamagedFile(f"{os.fspath(path)!r} is damaged ({error}); {_REMEDY}") from None


class PointWriter:
    """Put points into an HDF5 surface one by one; each is in the file when `put` returns, whatever happens then.

    The file is opened for each point: all arrays exist already, so that nothing but their values is written and no
    half-written structure can be left behind, and other programs can read the surface between two points.
    """

    _SYNC_SECONDS = 1.0  # flushed at every point (survives kill -9), synced once a second (survives a power cut)

    def __init__(self, path: Path, nx: int) -> None:
        self._path, self._nx = path, nx
        self._synced = time.monotonic()

    def put(
        self, index: tuple[int, ...], losses: np.ndarray, mean: float, error: float, metrics: Mapping[str, float]
    ) -> None:
        """Record one point."""
        at = index[0] if len(index) == 1 else index[1] * self._nx + index[0]
        with write_errors(self._path, "the points done before are kept"), _opened(self._path, "r+") as file:
            file["sequence_losses"][at] = losses
            for name, value in {"train_loss": mean, "standard_error": error}.items():
                _put_flat(file[name], at, value)
            for name, value in metrics.items():
                _put_flat(file["metrics"][name], at, value)
            ordered = [metrics[name] for name in sorted(metrics)]
            _put_flat(file[POINTS], at, point_checksum(at, mean, error, losses, ordered))
            _put_flat(file["evaluated"], at, 1)  # last: from here on the point counts
        if time.monotonic() - self._synced > self._SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Have the operating system write the file to the device."""
        with write_errors(self._path, "the points done before are kept"):
            handle = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._synced = time.monotonic()


def _put_flat(data: Any, at: int, value: float) -> None:
    data[np.unravel_index(at, data.shape)] = value


def _opened(path: str | os.PathLike[str], mode: str) -> Any:
    import h5py

    check_readable(path, "expected a surface file", "name another file")
    deadline, locking = time.monotonic() + _LOCK_SECONDS, None
    while True:
        try:
            return h5py.File(path, mode, locking=locking)
        except OSError as error:
            number = error.errno or _system_error(str(error))
            if number == errno.EAGAIN:
                # another program reads or writes a point at this moment
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"expected {os.fspath(path)!r} to be free, but another program has kept it open for "
                        f"{_LOCK_SECONDS:g} seconds; close it there, the points done are kept"
                    ) from None
                time.sleep(0.005)
            elif number in NO_LOCKS and locking is None:
                locking = False  # `exclusive` has said that this file system has none
            elif number is not None or (mode != "r" and not os.access(path, os.W_OK)):
                text = f"could not open {os.fspath(path)!r} ({os.strerror(number or errno.EACCES)})"
                raise OSError(number or errno.EACCES, f"{text}; the points done are kept") from None
            else:
                why = " ".join(str(error).split())[:200]
                raise DamagedFile(
                    f"expected a readable HDF5 surface, got {os.fspath(path)!r} ({why}); {_REMEDY}"
                ) from None


def _system_error(text: str) -> int | None:
    """The system's error number in what HDF5 says."""
    found = re.search(r"errno = (\d+)", text)
    return int(found[1]) if found else None


def _write_hdf5(surface: SurfaceData, path: Path) -> None:
    import h5py

    def flat(values: np.ndarray) -> np.ndarray:
        return values if surface.y is None else values.swapaxes(0, 1).reshape(-1, *values.shape[2:])

    # the format of HDF5 1.8: it has checksums in its own structures, and unlike the later ones it does not mark a file
    # as open, a mark that a killed process would leave behind
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        file["xcoordinates"] = surface.x
        if surface.y is not None:
            file["ycoordinates"] = surface.y
        file["train_loss"] = flat(np.where(surface.evaluated, surface.loss, UNKNOWN)).reshape(surface.loss.shape)
        file["dir_file"] = "; ".join(direction["label"] for direction in surface.directions)
        file["standard_error"] = flat(surface.standard_error).reshape(surface.loss.shape)
        file["evaluated"] = flat(surface.evaluated.astype(np.uint8)).reshape(surface.loss.shape)
        if surface.sequence_losses is not None:
            file["sequence_losses"] = flat(surface.sequence_losses)
        metrics = file.create_group("metrics")
        for name, values in surface.metrics.items():
            metrics[name] = flat(values).reshape(surface.loss.shape)
        file["metadata"] = json.dumps(surface.metadata)
        file[POINTS] = all_point_checksums(file, flat(surface.evaluated))


def _write_csv(surface: SurfaceData, path: Path) -> None:
    surface.to_frame().to_csv(path, index=False)


def _write_vtk(surface: SurfaceData, path: Path) -> None:
    """A structured grid with the loss as height; where it is not finite, the height is the highest finite one."""
    if surface.y is None:
        raise ValueError("expected a 2-D surface for .vts, got a 1-D one; use .csv")
    try:
        from pyevtk.hl import gridToVTK
    except ImportError:
        raise RuntimeError(
            "expected the package pyevtk for .vts, got none; install it with: pip install pyevtk"
        ) from None
    finite = np.isfinite(surface.loss)
    if not finite.any():
        raise ValueError("expected at least one finite point for .vts, got none")
    height = np.where(finite, surface.loss, surface.loss[finite].max())
    x, y = surface.grid[..., 0], surface.grid[..., 1]
    fields = {"loss": surface.loss, "standard_error": surface.standard_error, **surface.metrics}
    fields["evaluated"] = surface.evaluated.astype(np.uint8)

    def layer(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[:, :, np.newaxis])

    data = {name: layer(values) for name, values in fields.items()}
    gridToVTK(os.fspath(path.with_suffix("")), layer(x), layer(y), layer(height), pointData=data)
