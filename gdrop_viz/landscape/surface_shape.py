"""Shape of a surface: quadratic fit at the centre, radial mean, radius of a given rise, plateau."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gdrop_viz.base.checks import number
from gdrop_viz.landscape.surface_data import SurfaceData

if TYPE_CHECKING:
    import pandas as pd

_GOOD_FIT = 0.05


@dataclass(frozen=True, eq=False)
class Curvature:
    """The quadratic L(u) = centre + gradientᵀu + ½ uᵀ·hessian·u that fits a surface near its centre.

    Attributes
    ----------
    eigenvalues
        (2,) or (1,), descending: of `hessian`, in nats per squared unit of the coordinates (multiples of the
        directions).
    eigenvectors
        (2, 2) or (1, 1): column i belongs to eigenvalue i, in the coordinates.
    standard_errors
        Of the eigenvalues, over sequences (first order: of vᵀ·hessian_n·v); NaN without the losses of each.
    per_squared_distance
        The eigenvalues in nats per squared Euclidean distance in weight space; NaN if the directions' norms are not
        known. Comparable between directions of different norm.
    radius, n_points
        The points within this radius were fitted.
    fit_error
        Root mean square of (surface - fit) over that of (surface - its mean): 0 is a perfect quadratic.
    """

    hessian: np.ndarray
    gradient: np.ndarray
    centre: float
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    standard_errors: np.ndarray
    per_squared_distance: np.ndarray
    radius: float
    n_points: int
    fit_error: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per eigenvalue."""
        import pandas as pd

        columns = ("eigenvalues", "standard_errors", "per_squared_distance")
        frame = pd.DataFrame({name.removesuffix("s"): getattr(self, name) for name in columns})
        return frame.assign(radius=self.radius, fit_error=self.fit_error)


class Plateau(NamedTuple):
    """The level of a surface's outer ring: mean and standard deviation (nats), and ln|V| (NaN if not known)."""

    level: float
    spread: float
    ln_vocabulary: float


def fitted_curvature(surface: SurfaceData, radius: float | None = None) -> Curvature:
    """Fit a quadratic by least squares to the finite points within `radius` of the centre (in coordinates).

    Without a radius: the largest at which the fit is still good (`fit_error` at most 0.05), or else the smallest
    with enough points for a fit.

    Raises
    ------
    ValueError
        If there are too few points.

    >>> x = np.linspace(-1, 1, 5)
    >>> surface = SurfaceData(x, x, 3 + 0.5 * (4 * x[:, None] ** 2 + x[None] ** 2))
    >>> fitted_curvature(surface).eigenvalues.round(6)
    array([4., 1.])
    """
    coordinates, losses, sequences = _known_points(surface)
    distance = np.sqrt((coordinates**2).sum(axis=1))
    n_terms = _design(coordinates[:1]).shape[1]
    if radius is not None:
        radii = [float(radius)]
    else:
        # a little more than each ring's radius, so that rounding leaves none of its points out
        rings = np.unique(distance.round(9)) * (1 + 1e-6) + 1e-9
        radii = [float(r) for r in rings if (distance <= r).sum() > n_terms] or [float("inf")]
    fits: list[Curvature] = []
    for candidate in radii:
        inside = distance <= candidate
        if inside.sum() < n_terms:
            raise ValueError(
                f"expected at least {n_terms} finite points for a quadratic fit, got {int(inside.sum())} within radius "
                f"{candidate:g}; use a larger radius or a finer grid"
            )
        each = None if sequences is None else sequences[inside]
        reach = float(distance[inside].max()) if radius is None else candidate
        fits.append(_fitted(surface, coordinates[inside], losses[inside], each, reach))
    return next((fit for fit in reversed(fits) if fit.fit_error <= _GOOD_FIT), fits[0])


def radial_profile(surface: SurfaceData) -> pd.DataFrame:
    """Return the loss over the distance from the centre, out to the nearest edge of the grid.

    Rows are rings one grid step wide. Columns: radius (mean of the ring's points, in multiples of the directions),
    loss (mean over the ring), standard_deviation, minimum, maximum over its angles, points, diverged. The means are
    of the finite points.
    """
    import pandas as pd

    distance = np.sqrt((surface.grid**2).sum(axis=-1))
    step = max(float(np.diff(axis).max()) for axis in surface.axes)
    edge = min(float(max(abs(axis.min()), abs(axis.max()))) for axis in surface.axes)
    ring = np.floor(distance / step + 0.5).astype(int)
    rows = []
    for index in np.unique(ring[distance <= edge * (1 + 1e-9)]):
        inside = (ring == index) & (distance <= edge * (1 + 1e-9)) & surface.evaluated
        finite = inside & np.isfinite(surface.loss)
        if not finite.any():
            continue
        values = surface.loss[finite]
        row = {"radius": distance[finite].mean(), "loss": values.mean(), "standard_deviation": values.std()}
        row.update(minimum=values.min(), maximum=values.max(), points=len(values))
        rows.append({**row, "diverged": int((inside & ~np.isfinite(surface.loss)).sum())})
    return pd.DataFrame(rows)


def rise_radius(surface: SurfaceData, amount: float) -> float:
    """Return the radius at which the radial mean first lies `amount` nats above the centre (linear in between).

    The centre is the exact one, or the innermost ring on a grid without it. NaN if the surface never rises so far.
    """
    number(amount, "the rise", above=0)
    profile = radial_profile(surface)
    if profile.empty:
        return float("nan")
    radius, loss = profile["radius"].to_numpy(), profile["loss"].to_numpy()
    rise = loss - loss[0]
    above = np.flatnonzero(rise >= amount)
    if not len(above):
        return float("nan")
    outer = above[0]
    inner = outer - 1
    return float(np.interp(amount, [rise[inner], rise[outer]], [radius[inner], radius[outer]]))


def plateau(surface: SurfaceData, vocabulary: int | None = None) -> Plateau:
    """Return the mean loss of the outer ring (beyond 0.9 of the half-width) and ln|V|, the loss of a uniform guess.

    |V| is the surface's own if its loss is that of predicted tokens; for a classifier give its number of classes.
    """
    widths = np.array([np.abs(axis).max() for axis in surface.axes])
    outermost = (np.abs(surface.grid) / widths).max(axis=-1)
    values = surface.loss[(outermost >= 0.9) & np.isfinite(surface.loss)]
    if vocabulary is None and surface.unit == "nats per predicted token":
        vocabulary = surface.metadata.get("vocabulary")
    uniform = math.log(vocabulary) if vocabulary else float("nan")
    if not len(values):
        return Plateau(float("nan"), float("nan"), uniform)
    return Plateau(float(values.mean()), float(values.std()), uniform)


def _known_points(surface: SurfaceData) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    known = surface.evaluated & np.isfinite(surface.loss)
    sequences = None if surface.sequence_losses is None else surface.sequence_losses[known]
    return surface.grid[known], surface.loss[known], sequences


def _design(points: np.ndarray) -> np.ndarray:
    """Columns 1, uᵢ, ½uᵢ² and uᵢuⱼ, so that the coefficients are centre, gradient and Hessian."""
    products = [points[:, i] * points[:, j] for i in range(points.shape[1]) for j in range(i)]
    return np.column_stack([np.ones(len(points)), points, 0.5 * points**2, *products])


def _hessians(coefficients: np.ndarray, n: int) -> np.ndarray:
    """(terms, ...) -> (..., n, n)."""
    out = np.zeros((*coefficients.shape[1:], n, n))
    for i in range(n):
        out[..., i, i] = coefficients[1 + n + i]
    if n == 2:
        out[..., 0, 1] = out[..., 1, 0] = coefficients[5]
    return out


def _fitted(
    surface: SurfaceData, points: np.ndarray, losses: np.ndarray, sequences: np.ndarray | None, radius: float
) -> Curvature:
    n = points.shape[1]
    design = _design(points)
    solver = np.linalg.pinv(design)
    coefficients = solver @ losses
    hessian = _hessians(coefficients, n)
    values, vectors = np.linalg.eigh(hessian)
    values, vectors = values[::-1], vectors[:, ::-1]
    errors = np.full(n, np.nan)
    if sequences is not None and sequences.shape[1] > 1:
        each = _hessians(solver @ sequences, n)
        along = np.einsum("ik,sij,jk->sk", vectors, each, vectors)
        errors = along.std(axis=0, ddof=1) / np.sqrt(len(along))
    distance_values = np.full(n, np.nan)
    products = surface.metadata.get("inner_products")
    if products is not None and np.shape(products) == (n, n):
        # L = ½ uᵀHu with squared distance uᵀGu: generalised eigenvalues
        root = np.linalg.inv(np.linalg.cholesky(np.asarray(products, dtype=np.float64)))
        distance_values = np.linalg.eigvalsh(root @ hessian @ root.T)[::-1]
    residual = losses - design @ coefficients
    spread = float(np.sqrt(np.mean((losses - losses.mean()) ** 2)))
    error = float(np.sqrt(np.mean(residual**2))) / spread if spread > 0 else 0.0
    return Curvature(
        hessian, coefficients[1 : 1 + n], float(coefficients[0]), values, vectors, errors, distance_values, radius,
        len(points), error,
    )  # fmt: skip
