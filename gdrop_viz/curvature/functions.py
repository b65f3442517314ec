"""Spectrum, trace, density and curvature by sequence in one call: each makes a `Hessian` and asks it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from gdrop_viz.curvature.density import SpectralDensity
from gdrop_viz.curvature.hessian import Hessian
from gdrop_viz.curvature.sequences import SequenceCurvature
from gdrop_viz.curvature.spectrum import HessianSpectrum
from gdrop_viz.curvature.trace import HessianTrace
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.selection import Selection

Batches = Sequence[Mapping[str, Tensor]]


def hessian_spectrum(
    model: nn.Module, batches: Batches, k: int = 5, *, which: str = "LA", selection: Selection | None = None,
    tolerance: float = 1e-3, max_iterations: int | None = None, basis: int | None = None, seed: int = 0,
    loss: Loss | None = None, progress: bool = True, stop: threading.Event | None = None, keep: bool = True,
) -> HessianSpectrum:  # fmt: skip
    """Return the k extreme eigenpairs of the Hessian of L = 1/N Σ_n L_n (or of its block over a selection).

    `Hessian(model, batches, selection, loss).spectrum(...)`: parameters, returns and errors are described there.

    >>> import torch
    >>> model = nn.Linear(3, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2  # Hessian: 2 · mean of x xᵀ
    >>> batches = [{"input": torch.diag(torch.tensor([3.0, 2.0, 1.0]))}]
    >>> hessian_spectrum(model, batches, k=1, loss=square, progress=False).eigenvalues.round(4)
    array([6.], dtype=float32)
    """
    return Hessian(model, batches, selection, loss).spectrum(
        k, which=which, tolerance=tolerance, max_iterations=max_iterations, basis=basis, seed=seed, progress=progress,
        stop=stop, keep=keep,
    )  # fmt: skip


def hessian_trace(
    model: nn.Module, batches: Batches, n_probes: int = 30, *, selection: Selection | None = None,
    parts: Mapping[str, Selection] | None = None, seed: int = 0, loss: Loss | None = None, progress: bool = True,
    stop: threading.Event | None = None,
) -> HessianTrace:  # fmt: skip
    """Estimate the trace of the Hessian of L = 1/N Σ_n L_n, in total and for each tensor.

    `Hessian(model, batches, selection, loss).trace(...)`: parameters, returns and errors are described there.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> batches = [{"input": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}]  # Hessian diag(9, 1)
    >>> round(hessian_trace(model, batches, n_probes=4, loss=square, progress=False).mean, 4)
    10.0
    """
    hessian = Hessian(model, batches, selection, loss)
    return hessian.trace(n_probes, parts=parts, seed=seed, progress=progress, stop=stop)


def hessian_density(
    model: nn.Module, batches: Batches, *, n_probes: int = 4, n_steps: int = 30, selection: Selection | None = None,
    seed: int = 0, loss: Loss | None = None, progress: bool = True, stop: threading.Event | None = None,
) -> SpectralDensity:  # fmt: skip
    """Estimate the density of the eigenvalues of the Hessian of L = 1/N Σ_n L_n (or of its block over a selection).

    `Hessian(model, batches, selection, loss).density(...)`: parameters, returns and errors are described there.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> batches = [{"input": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}]  # Hessian diag(9, 1)
    >>> density = hessian_density(model, batches, n_probes=1, loss=square, progress=False)
    >>> density.nodes[density.weights > 0].round(4)
    array([1., 9.])
    """
    hessian = Hessian(model, batches, selection, loss)
    return hessian.density(n_probes=n_probes, n_steps=n_steps, seed=seed, progress=progress, stop=stop)


def sequence_curvature(
    model: nn.Module, batches: Batches, n_probes: int = 2, *, selection: Selection | None = None,
    parts: Mapping[str, Selection] | None = None, seed: int = 0, loss: Loss | None = None, progress: bool = True,
    stop: threading.Event | None = None,
) -> SequenceCurvature:  # fmt: skip
    """Estimate for each sequence the trace of its Hessian, and the sum of its squared gradient, on the same pass.

    `Hessian(model, batches, selection, loss).by_sequence(...)`: parameters, returns and errors are described there.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2  # H_n = 2 x xᵀ, gradient 2 (w·x) x
    >>> batches = [{"input": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}]
    >>> frame = sequence_curvature(model, batches, loss=square, progress=False).to_frame()
    >>> frame[["trace", "fisher"]].values.tolist()  # means of 18 and 2, of 324 and 4
    [[10.0, 164.0]]
    """
    hessian = Hessian(model, batches, selection, loss)
    return hessian.by_sequence(n_probes, parts=parts, seed=seed, progress=progress, stop=stop)
