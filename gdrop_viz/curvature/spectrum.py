"""Extreme eigenvalues and eigenvectors of the Hessian, by Lanczos."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import number, one_of, whole
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.saved import Saved
from gdrop_viz.curvature.operator import Operator
from gdrop_viz.curvature.ritz import Ritz
from gdrop_viz.perturbation.direction import Direction

if TYPE_CHECKING:
    import pandas as pd

_ENDS = ("LA", "SA", "LM", "BE")


@dataclass(frozen=True, eq=False, repr=False)
class HessianSpectrum(Saved):
    """Extreme eigenpairs of the Hessian of the mean loss.

    Attributes
    ----------
    eigenvalues
        (k,), descending; nats per squared unit of weight space. Fewer than asked for if Lanczos did not converge.
    residuals
        (k,): ‖H v - λ v‖ / |λ|, computed anew with one more Hessian-vector product for each pair.
    converged
        (k,) bool: the residual is at most ten times the tolerance that was asked for (and above rounding). All False
        where the search was stopped: however small a residual, a larger eigenvalue may not have been met yet.
    directions
        Unit eigenvectors as `Direction`s: for `loss_surface`, with `.scaled(norm)`.
    n_products
        How many Hessian-vector products it took.
    label
        Over which parameters.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    directions: tuple[Direction, ...]
    n_products: int
    label: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row per eigenvalue: eigenvalue, residual, converged."""
        import pandas as pd

        columns = {"eigenvalue": self.eigenvalues, "residual": self.residuals, "converged": self.converged}
        return pd.DataFrame(columns).rename_axis("number")

    def _summary(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.eigenvalues)
        state = "all converged" if self.converged.all() else f"{int(self.converged.sum())} of them converged"
        return f"{self.label}: eigenvalues {values}; {state}, {self.n_products} products"


def spectrum(
    hessian: Operator,
    k: int = 5,
    *,
    which: str = "LA",
    tolerance: float = 1e-3,
    max_iterations: int | None = None,
    basis: int | None = None,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
    keep: bool = True,
) -> HessianSpectrum:
    """Return the k extreme eigenpairs.

    Implicitly restarted Lanczos (ARPACK through `scipy.sparse.linalg.eigsh`) on exact Hessian-vector products; the
    starting vector is seeded, so the result is repeatable.

    Parameters
    ----------
    k
        How many.
    which
        "LA" largest, "SA" smallest (most negative), "LM" largest in magnitude, "BE" both ends.
    tolerance
        Relative accuracy asked of the eigenvalues; 0: as exact as rounding.
    max_iterations
        Restarts of Lanczos; when they are used up, what has converged is returned.
    basis
        Vectors kept (ARPACK's ncv, default 2k + 1 and at least 20): each takes as much memory as the parameters.
    seed
        Of the starting vector.
    progress
        Show a progress bar.
    stop
        Checked before each product. When it is set, or on Ctrl-C, the best approximations within the span of the
        products so far are returned, with their residuals and none marked as converged; Lanczos finds the ends of the
        spectrum first, so they are lower bounds of the largest (upper bounds of the smallest) eigenvalues.
    keep
        False: a stopped search raises RuntimeError instead. It saves the memory for what such a result is made of:
        twice max(2k, k + 8) vectors, about as much again as the search itself.

    Returns
    -------
    HessianSpectrum
        Eigenvalues, residuals, and eigenvectors as directions.

    Raises
    ------
    ValueError
        For a k that is not in 1 .. n - 1, or another setting out of range.
    RuntimeError
        If it is stopped before the first product.
    """
    n = hessian.shape[0]
    one_of(which, _ENDS, "which")
    number(tolerance, "tolerance", least=0)
    whole(k, "k", most=n - 1)
    if basis is not None:
        whole(basis, "basis", least=k + 1, most=n)
    if max_iterations is not None:
        whole(max_iterations, "max_iterations")
    with (
        interruptible(stop) as stopping,
        hessian,
        progress_bar(total=None, description="Lanczos", unit="product", show=progress) as bar,
    ):
        products = _Products(hessian, Ritz(k, which) if keep else None, bar, stopping)
        start = np.random.default_rng(seed).standard_normal(n).astype(hessian.dtype)
        search = {"k": k, "which": which, "tol": tolerance, "maxiter": max_iterations, "ncv": basis, "v0": start}
        try:
            values, vectors = _lanczos(products, search)
        except _Stopped:
            values, vectors, residuals = products.best()
            converged = np.zeros(len(values), dtype=bool)
        else:
            residuals = _residuals(products, values, vectors)
            # eigenvalues are accurate to the square of the residual; in float32 products round at about 1e-6
            converged = residuals <= 10 * max(tolerance, 100 * float(np.finfo(hessian.dtype).eps))
    directions = tuple(hessian.direction(vector, f"Hessian eigenvector {i + 1}") for i, vector in enumerate(vectors.T))
    return HessianSpectrum(values, residuals, converged, directions, products.count, hessian.label)


class _Stopped(Exception):
    pass


class _Products:
    """The products of a search: counted, shown, and remembered for the case that it is stopped."""

    def __init__(self, hessian: Operator, ritz: Ritz | None, bar: Any, stopping: Callable[[], bool]) -> None:
        self.hessian, self.count = hessian, 0
        self._ritz, self._bar, self._stopping = ritz, bar, stopping

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H·v; raise _Stopped if the search shall end before it."""
        if self._stopping():
            raise _Stopped
        found = self.hessian.matvec(vector)
        if self._ritz is not None:
            self._ritz.add(vector, found)
        self.count += 1
        self._bar.update()
        return found

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues, vectors and residuals within the span of all products so far."""
        if self._ritz is None or not len(self._ritz):
            raise RuntimeError("the spectrum was stopped before it knew anything; start it again") from None
        return self._ritz.pairs()


def _lanczos(products: _Products, search: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and unit vectors (n, k); fewer where the iterations did not suffice."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    hessian = products.hessian
    try:
        values, vectors = eigsh(LinearOperator(hessian.shape, matvec=products.matvec, dtype=hessian.dtype), **search)
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    order = np.argsort(-values)
    return values[order], vectors[:, order]


def _residuals(products: _Products, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """‖H v - λ v‖ / |λ| of each pair."""
    matvec, least = products.hessian.matvec, float(np.finfo(products.hessian.dtype).tiny)
    products.count += len(values)
    pairs = zip(values, vectors.T, strict=True)
    return np.array([np.linalg.norm(matvec(v) - value * v) / max(abs(float(value)), least) for value, v in pairs])
