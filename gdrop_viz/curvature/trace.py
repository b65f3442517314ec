"""Trace of the Hessian, in total and by tensor, layer or component, by Hutchinson's estimator."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import whole
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.saved import Saved
from gdrop_viz.curvature.hutchinson import Hutchinson, grouped
from gdrop_viz.curvature.operator import Operator
from gdrop_viz.perturbation.selection import Selection, grouping

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class HessianTrace(Saved):
    """Estimates of tr H, and of the trace of each tensor's diagonal block.

    Attributes
    ----------
    samples
        (n_probes, n_tensors): vₜᵀ(H v)ₜ for each probe v and tensor t; its mean over probes estimates tr Hₜₜ.
    names, sizes
        The tensors, and how many (selected) elements each has: trace / size is its mean Hessian diagonal, the
        counterpart of its mean Fisher score.
    label
        Over which parameters.
    parts
        Name -> (samples (n_probes,), elements): the trace over the elements of each selection that was asked for.
    """

    samples: np.ndarray
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    label: str
    parts: Mapping[str, tuple[np.ndarray, int]] = field(default_factory=dict)

    @property
    def n_probes(self) -> int:
        """How many probes were averaged."""
        return len(self.samples)

    @property
    def mean(self) -> float:
        """The estimate of tr H, in nats per squared unit of weight space."""
        return float(self.samples.sum(axis=1).mean())

    total = mean

    @property
    def standard_error(self) -> float:
        """The standard error of `mean` over probes (not over text, for which see `sequence_curvature`)."""
        return _standard_error(self.samples.sum(axis=1))

    @property
    def layers(self) -> pd.DataFrame:
        """The trace of each layer; see `to_frame`."""
        return self.to_frame("layer")

    @property
    def components(self) -> pd.DataFrame:
        """The trace of each kind of component; see `to_frame`."""
        return self.to_frame("component")

    def to_frame(self, by: str = "tensor") -> pd.DataFrame:
        """Return one row per "tensor", "layer", "component", "place" (component of a layer), "all" or "part".

        Columns: elements; trace and its standard_error over probes; mean_diagonal = trace / elements.
        """
        import pandas as pd

        sums = self.parts if by == "part" else grouped(self.names, self.sizes, self.samples, grouping(by))
        rows = [
            {by: group, "elements": elements, "trace": samples.mean(), "standard_error": _standard_error(samples)}
            for group, (samples, elements) in sums.items()
        ]
        frame = pd.DataFrame(rows, columns=[by, "elements", "trace", "standard_error"]).set_index(by)
        return frame.assign(mean_diagonal=frame["trace"] / frame["elements"])

    def _summary(self) -> str:
        return f"{self.label}: {self.mean:.4g} ± {self.standard_error:.2g} from {self.n_probes} probes"

    def _table(self) -> pd.DataFrame:
        return self.layers


def trace(
    hessian: Operator,
    n_probes: int = 30,
    *,
    parts: Mapping[str, Selection] | None = None,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> HessianTrace:
    """Estimate the trace, in total and for each tensor, by Hutchinson's estimator with random signs.

    Parameters
    ----------
    n_probes
        How many random vectors; the standard error falls with their square root. Each costs one product.
    parts
        Name -> Selection: sets of elements whose trace is estimated from the same probes, which costs nothing.
    seed
        Of the probes.
    progress
        Show a progress bar.
    stop
        When it is set, or on Ctrl-C, the probes done so far are returned.

    Returns
    -------
    HessianTrace
        The samples of each probe, for every tensor and part.

    Raises
    ------
    ValueError
        For n_probes below 2, of which no error can be told.
    RuntimeError
        If it is stopped before the second probe.
    """
    whole(n_probes, "n_probes", least=2)
    samples = []
    with (
        interruptible(stop) as stopping,
        hessian,
        progress_bar(total=n_probes, description="Hutchinson", unit="probe", show=progress) as bar,
    ):
        estimate = Hutchinson(hessian, parts, seed)
        for probe in range(n_probes):
            if stopping():
                break
            samples.append(estimate.sample(hessian.matvec, probe))
            bar.update()
    if len(samples) < 2:
        raise RuntimeError("the trace was stopped before the second probe; nothing can be said of it")
    tensors, of_parts = estimate.apart(samples)
    return HessianTrace(tensors, tuple(hessian.names), tuple(hessian.sizes), hessian.label, of_parts)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
