"""Which directions curve the loss most? The Hessian's extreme eigenvalues and eigenvectors, by Lanczos."""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.tensor_file import read_tensors, write_tensors
from gdrop_viz.curvature.hessian import Hessian
from gdrop_viz.curvature.ritz import Ritz
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.directions import Direction
from gdrop_viz.perturbation.selection import Selection

if TYPE_CHECKING:
    import pandas as pd

_ENDS = ("LA", "SA", "LM", "BE")


@dataclass(frozen=True, eq=False)
class HessianSpectrum:
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
        """Return one row per eigenvalue."""
        import pandas as pd

        columns = {"eigenvalue": self.eigenvalues, "residual": self.residuals, "converged": self.converged}
        return pd.DataFrame(columns).rename_axis("number")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as one safetensors file."""
        arrays = {name: getattr(self, name) for name in ("eigenvalues", "residuals", "converged")}
        vectors = {f"{i} {name}": v for i, d in enumerate(self.directions) for name, v in d.vectors.items()}
        labels = [[direction.label, direction.selection] for direction in self.directions]
        facts = {"n_products": self.n_products, "label": self.label, "directions": labels}
        write_tensors(path, "HessianSpectrum", {**arrays, **vectors}, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HessianSpectrum:
        """Read what `save` wrote; FileNotFoundError or ValueError if there is none at `path`."""
        tensors, facts = read_tensors(path, "HessianSpectrum")
        arrays = [tensors.pop(name).numpy() for name in ("eigenvalues", "residuals", "converged")]
        parts: list[dict[str, Tensor]] = [{} for _ in facts["directions"]]
        for key, vector in tensors.items():
            number, _, name = key.partition(" ")
            parts[int(number)][name] = vector
        directions = tuple(
            Direction(vectors, label=label, selection=selection)
            for vectors, (label, selection) in zip(parts, facts["directions"], strict=True)
        )
        return cls(*arrays, directions, facts["n_products"], facts["label"])

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.eigenvalues)
        state = "all converged" if self.converged.all() else f"{int(self.converged.sum())} of them converged"
        return f"HessianSpectrum({self.label}: eigenvalues {values}; {state}, {self.n_products} products)"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_frame().to_html(float_format=lambda v: f'{v:.4g}')}"


class _Stopped(Exception):
    pass


def hessian_spectrum(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    k: int = 5,
    *,
    which: str = "LA",
    selection: Selection | None = None,
    tolerance: float = 1e-3,
    max_iterations: int | None = None,
    basis: int | None = None,
    seed: int = 0,
    loss: Loss | None = None,
    progress: bool = True,
    stop: threading.Event | None = None,
    keep: bool = True,
) -> HessianSpectrum:
    """Return the k extreme eigenpairs of the Hessian of L = 1/N Σ_n L_n (or of its block over a selection).

    Implicitly restarted Lanczos (ARPACK through `scipy.sparse.linalg.eigsh`) on exact Hessian-vector products; the
    starting vector is seeded, so the result is repeatable.

    Parameters
    ----------
    which
        "LA" largest, "SA" smallest (most negative), "LM" largest in magnitude, "BE" both ends.
    tolerance
        Relative accuracy asked of the eigenvalues.
    max_iterations
        Restarts of Lanczos; when they are used up, what has converged is returned.
    basis
        Vectors kept (ARPACK's ncv, default 2k + 1 and at least 20): each takes as much memory as the parameters.
    stop
        Checked before each product. When it is set, or on Ctrl-C, the best approximations within the span of the
        products so far are returned, with their residuals and none marked as converged; Lanczos finds the ends of the
        spectrum first, so they are lower bounds of the largest (upper bounds of the smallest) eigenvalues.
    keep
        False: a stopped search raises RuntimeError instead. It saves the memory for what such a result is made of:
        twice max(2k, k + 8) vectors, about as much again as the search itself.

    Raises ValueError for a k that is not in 1 .. n - 1, RuntimeError if it is stopped before the first product.

    >>> import torch
    >>> model = nn.Linear(3, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2  # Hessian: 2 · mean of x xᵀ
    >>> batches = [{"input": torch.diag(torch.tensor([3.0, 2.0, 1.0]))}]
    >>> hessian_spectrum(model, batches, k=1, loss=square, progress=False).eigenvalues.round(4)
    array([6.], dtype=float32)
    """
    if which not in _ENDS:
        raise ValueError(f"expected which= one of {', '.join(map(repr, _ENDS))}, got {which!r}")
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"expected tolerance as a number of at least 0 (0: as exact as rounding), got {tolerance!r}")
    hessian = Hessian(model, batches, selection=selection, loss=loss)
    n = hessian.shape[0]
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k < n:
        raise ValueError(f"expected k as a whole number from 1 to {n - 1:,} (one less than the elements), got {k!r}")
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    products, stopped, ritz = 0, False, Ritz(k, which)
    with (
        interruptible(stop) as stopping,
        hessian,
        progress_bar(total=None, description="Lanczos", unit="product", show=progress) as bar,
    ):

        def product(vector: np.ndarray) -> np.ndarray:
            nonlocal products
            if stopping():
                raise _Stopped
            found = hessian @ vector
            if keep:
                ritz.add(vector, found)
            products += 1
            bar.update()
            return found

        start = np.random.default_rng(seed).standard_normal(n).astype(hessian.dtype)
        operator = LinearOperator(hessian.shape, matvec=product, dtype=hessian.dtype)
        try:
            values, vectors = eigsh(
                operator, k=k, which=which, tol=tolerance, maxiter=max_iterations, ncv=basis, v0=start
            )
        except ArpackNoConvergence as error:
            values, vectors = error.eigenvalues, error.eigenvectors
        except _Stopped:
            if not len(ritz):
                raise RuntimeError("the spectrum was stopped before it knew anything; start it again") from None
            stopped = True
            values, vectors, residuals = ritz.pairs()
        if not stopped:
            order = np.argsort(-values)
            values, vectors = values[order], vectors[:, order]
            tiny = np.finfo(hessian.dtype).tiny
            residuals = np.array(
                [
                    np.linalg.norm(hessian @ vector - value * vector) / max(abs(float(value)), tiny)
                    for value, vector in zip(values, vectors.T, strict=True)
                ]
            )
            products += len(values)
    # eigenvalues are accurate to the square of the residual; in single precision products round at about 1e-6
    allowed = 10 * max(tolerance, 100 * float(np.finfo(hessian.dtype).eps))
    directions = tuple(hessian.direction(vector, f"Hessian eigenvector {i + 1}") for i, vector in enumerate(vectors.T))
    converged = (residuals <= allowed) & (not stopped)
    return HessianSpectrum(values, residuals, converged, directions, products, hessian.label)
