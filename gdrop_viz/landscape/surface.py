"""Loss surface: the loss at each point of a line or a plane through the weights, with its standard error."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import one_of
from gdrop_viz.base.files import file_stem
from gdrop_viz.base.saved import Saved
from gdrop_viz.landscape import surface_file, surface_shape
from gdrop_viz.landscape.surface_data import SurfaceData
from gdrop_viz.landscape.surface_shape import Curvature, Plateau

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Surface(SurfaceData, Saved):
    """The loss over a line (1-D) or a plane (2-D) through a model's weights.

    Attributes
    ----------
    x, y
        Coordinates (nx,) and (ny,): multiples of the first and the second direction; `y` is None for a line.
    loss
        (nx, ny) or (nx,), nats: `loss[i, j]` is the mean loss over sequences at `x[i]`, `y[j]`. A diverged point
        is recorded as inf or NaN.
    standard_error
        Same shape: the standard error of each mean over the sequences (they are a sample of the text).
    sequence_losses
        (nx, ny, N) or (nx, N), or None: the loss of each sequence. All points see the same sequences, so
        differences between points are known much better than the points themselves; see `rise`.
    metrics
        Name -> array of loss's shape: whatever else was recorded at each point.
    evaluated
        Same shape, bool: which points are known; loss is NaN at the others.
    metadata
        Model, text, directions (label, norm, seed, normalisation) and their inner products.

    >>> surface = Surface(np.array([-1.0, 0.0, 1.0]), None, np.array([2.5, 2.0, 2.5]))
    >>> surface.centre_loss, surface.curvature().eigenvalues.round(6)
    (2.0, array([1.]))
    """

    @property
    def centre_loss(self) -> float:
        """The loss at the trained weights; NaN if the grid has no point at exactly 0 or it is not known yet."""
        at = self._centre()
        return float(self.loss[at]) if at is not None else float("nan")

    @property
    def suggested_extent(self) -> float:
        """An extent that shows basin and walls: twice the radius of a rise of 1 nat (twice this one if none is met)."""
        radius = self.rise_radius(1.0)
        return 2.0 * (radius if np.isfinite(radius) else float(np.abs(self.x).max()))

    def rise(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss above the centre's and its standard error, both of loss's shape.

        The standard error is that of the paired differences, sequence by sequence; without `sequence_losses` it is
        NaN.

        Raises
        ------
        ValueError
            If the centre is not known.
        """
        at = self._centre()
        if at is None:
            raise ValueError(
                "expected a surface with a known point at exactly 0, got none; use an odd number of points"
            )
        if self.sequence_losses is None:
            return self.loss - self.loss[at], np.full(self.loss.shape, np.nan)
        with np.errstate(invalid="ignore"):
            differences = self.sequence_losses - self.sequence_losses[at]
            n = differences.shape[-1]
            error = differences.std(axis=-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(self.loss.shape, np.nan)
            return self.loss - self.loss[at], error

    def curvature(self, radius: float | None = None) -> Curvature:
        """Fit a quadratic near the centre; see `gdrop_viz.landscape.surface_shape.fitted_curvature`."""
        return surface_shape.fitted_curvature(self, radius)

    def radial(self) -> pd.DataFrame:
        """Return the loss over distance from the centre; see `gdrop_viz.landscape.surface_shape.radial_profile`."""
        return surface_shape.radial_profile(self)

    def rise_radius(self, amount: float = 0.1) -> float:
        """Return the radius at which the mean loss over angles has risen by `amount` nats; NaN if it never does."""
        return surface_shape.rise_radius(self, amount)

    def plateau(self, vocabulary: int | None = None) -> Plateau:
        """Return the level of the surface's outer ring beside ln|V|; |V| is needed for files that do not tell it."""
        return surface_shape.plateau(self, vocabulary)

    def cross_section(self, axis: str = "x", at: float = 0.0) -> Surface:
        """Return the line through the grid point nearest to `at` on the other axis, as a 1-D surface."""
        if self.y is None:
            return self
        one_of(axis, ("x", "y"), "axis")
        other = self.y if axis == "x" else self.x
        index = int(np.abs(other - at).argmin())

        def cut(array: np.ndarray) -> np.ndarray:
            return array[:, index] if axis == "x" else array[index]

        metadata = {**self.metadata, "cut": {"axis": "y" if axis == "x" else "x", "at": float(other[index])}}
        metadata.pop("inner_products", None)
        if self.directions:
            metadata["directions"] = self.directions[:1] if axis == "x" else self.directions[1:]
        return Surface(
            self.x if axis == "x" else self.y,
            None,
            cut(self.loss),
            cut(self.standard_error),
            None if self.sequence_losses is None else cut(self.sequence_losses),
            {name: cut(values) for name, values in self.metrics.items()},
            cut(self.evaluated),
            metadata,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write by the ending of `path`: .h5 (loss-landscape's layout, loads again), .csv, or .vts for ParaView."""
        surface_file.write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Surface:
        """Read an HDF5 surface: this package's, the loss-landscape project's, or the flattened one of its users.

        Raises
        ------
        FileNotFoundError
            If there is no file at `path`.
        OSError
            If the file system refuses to give it.
        DamagedFile
            If it holds no such surface, or has changed since it was written (a ValueError).
        """
        return cls(**surface_file.read(path))

    def _summary(self) -> str:
        grid = " x ".join(map(str, self.loss.shape))
        known = "" if self.is_complete else f", {self.n_evaluated} of {self.n_points} points known"
        diverged = f", {self.n_diverged} diverged" if self.n_diverged else ""
        text = f", {self.n_sequences} sequences" if self.n_sequences else ""
        name = f"{self.label!r}: " if self.label else ""
        points = f"{grid} points over {self._span()}, centre {self.centre_loss:.4f} nats"
        return f"{name}{points}{text}{known}{diverged}"

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = {f"direction {'xy'[i]}": f"{d['label']}, norm {d['norm']:.4g}" for i, d in enumerate(self.directions)}
        if self.n_evaluated:
            rows |= {f"radius of a rise of {a} nats": f"{self.rise_radius(a):.3g}" for a in (0.1, 1.0)}
        table = pd.Series(rows, dtype=object).to_frame("").to_html(header=False)
        return f"<p>{html.escape(repr(self))}</p>{table}"

    def _span(self) -> str:
        return " x ".join(f"[{axis.min():g}, {axis.max():g}]" for axis in self.axes)

    def _centre(self) -> tuple[int, ...] | None:
        at = []
        for axis in self.axes:
            zero = np.flatnonzero(axis == 0)
            if not len(zero):
                return None
            at.append(int(zero[0]))
        return tuple(at) if self.evaluated[tuple(at)] else None


def surface_path(folder: str | os.PathLike[str], label: str) -> Path:
    """The file in `folder` that holds the surface called `label`."""
    return Path(folder) / f"{file_stem(label) or 'surface'}.h5"
