"""Density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import whole
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.saved import Saved
from gdrop_viz.curvature.hutchinson import random_signs
from gdrop_viz.curvature.operator import Operator

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class SpectralDensity(Saved):
    """The distribution of the Hessian's eigenvalues: weighted points for each probe, smoothed on request.

    Attributes
    ----------
    nodes, weights
        (n_probes, n_steps): quadrature nodes (Ritz values) and weights, which add up to 1 for each probe. The mean of
        f over all eigenvalues is estimated by Σ weights · f(nodes), averaged over probes; unused steps weigh 0.
    n_elements
        How many eigenvalues there are.
    label
        Over which parameters.
    """

    nodes: np.ndarray
    weights: np.ndarray
    n_elements: int
    label: str

    @property
    def n_probes(self) -> int:
        """How many random starting vectors were used."""
        return self.nodes.shape[0]

    @property
    def n_steps(self) -> int:
        """How many Lanczos steps each took."""
        return self.nodes.shape[1]

    @property
    def sigma(self) -> float:
        """The width of the Gaussian that `to_frame` smooths with by default: 1 % of the spectrum's range."""
        return max(0.01 * float(np.ptp(self._used)), 1e-12)

    def moment(self, power: int) -> tuple[float, float]:
        """Return the estimate of tr(H^power) and its standard error over probes (NaN for one probe)."""
        each = self.n_elements * (self.weights * self.nodes**power).sum(axis=1)
        error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else float("nan")
        return float(each.mean()), float(error)

    def to_frame(self, *, points: int = 400, sigma: float | None = None) -> pd.DataFrame:
        """Return the smoothed density: eigenvalue, density (mean over probes), minimum and maximum over probes.

        The density integrates to 1; each node stands as a Gaussian of standard deviation `sigma`.
        """
        import pandas as pd

        sigma = self.sigma if sigma is None else sigma
        grid = np.linspace(self._used.min() - 5 * sigma, self._used.max() + 5 * sigma, points)
        kernel = np.exp(-0.5 * ((grid[:, None, None] - self.nodes) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        each = (kernel * self.weights).sum(axis=2)
        return pd.DataFrame(
            {"eigenvalue": grid, "density": each.mean(axis=1), "minimum": each.min(axis=1), "maximum": each.max(axis=1)}
        )

    @property
    def _used(self) -> np.ndarray:
        return self.nodes[self.weights > 0]

    def _summary(self) -> str:
        span = f"[{self._used.min():.4g}, {self._used.max():.4g}]"
        return f"{self.label}: {self.n_elements:,} eigenvalues in {span}, {self.n_probes} probes"

    def _table(self) -> None:
        """A curve is for a picture."""


def density(
    hessian: Operator,
    *,
    n_probes: int = 4,
    n_steps: int = 30,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> SpectralDensity:
    """Estimate the density of the eigenvalues.

    Stochastic Lanczos quadrature (Lin, Saad and Yang 2016, arXiv 1308.5467; Ghorbani et al. 2019, arXiv 1901.10159):
    from a random start v, m Lanczos steps give a tridiagonal matrix whose eigenvalues, with the squared first entries
    of its eigenvectors as weights, are the Gauss quadrature of v's spectral measure. The basis is kept orthogonal by
    full reorthogonalisation: memory for n_steps vectors of the parameters' size.

    Parameters
    ----------
    n_probes
        Random starting vectors.
    n_steps
        Lanczos steps from each, one product a step.
    seed
        Of the starts.
    progress
        Show a progress bar.
    stop
        When it is set, or on Ctrl-C, the probes finished so far are returned.

    Returns
    -------
    SpectralDensity
        Nodes and weights of each probe.

    Raises
    ------
    ValueError
        For n_probes or n_steps below 1.
    RuntimeError
        If it is stopped before the first probe is finished.
    """
    whole(n_probes, "n_probes")
    n_steps = min(whole(n_steps, "n_steps"), hessian.shape[0])
    found = []
    with interruptible(stop) as stopping, hessian:
        total = n_probes * n_steps
        with progress_bar(total=total, description="Lanczos quadrature", unit="product", show=progress) as bar:
            for probe in range(n_probes):
                start = random_signs(hessian.shape[0], hessian.dtype, seed=seed, probe=probe)
                pair = _quadrature(hessian, start, n_steps, bar, stopping)
                if pair is None:
                    break
                found.append(pair)
    if not found:
        raise RuntimeError("the density was stopped before its first probe was finished; nothing can be said of it")
    nodes, weights = (np.array(part) for part in zip(*found, strict=True))
    return SpectralDensity(nodes, weights, hessian.shape[0], hessian.label)


def _quadrature(
    hessian: Operator, start: np.ndarray, n_steps: int, bar: Any, stopping: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray] | None:
    from scipy.linalg import eigh_tridiagonal

    basis = np.empty((n_steps, len(start)), dtype=hessian.dtype)
    basis[0] = start / np.linalg.norm(start)
    rounding = 1e3 * float(np.finfo(hessian.dtype).eps)
    diagonal: list[float] = []
    off: list[float] = []
    for step in range(n_steps):
        if stopping():
            return None
        product = hessian.matvec(basis[step])
        bar.update()
        diagonal.append(float(basis[step] @ product))
        for _ in range(2):  # twice is enough to stay orthogonal to rounding
            product -= basis[: step + 1].T @ (basis[: step + 1] @ product)
        norm = float(np.linalg.norm(product))
        # nothing new is left: the start lies in an invariant subspace, and the quadrature is exact
        if step + 1 == n_steps or norm <= rounding * max(map(abs, diagonal)):
            break
        off.append(norm)
        basis[step + 1] = product / norm
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off))
    nodes, weights = np.zeros(n_steps), np.zeros(n_steps)
    nodes[: len(values)], weights[: len(values)] = values, vectors[0] ** 2
    return nodes, weights
