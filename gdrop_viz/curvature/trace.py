"""How curved is the loss in total, and in which layers? The Hessian's trace, by Hutchinson's estimator."""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.tensor_file import read_tensors, write_tensors
from gdrop_viz.curvature.hessian import Hessian, random_signs
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.selection import Selection, grouping

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class HessianTrace:
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
        """Return one row per "tensor", "layer", "component" or "part".

        Columns: elements; trace and its standard_error over probes; mean_diagonal = trace / elements.
        """
        import pandas as pd

        if by == "part":
            sums = dict(self.parts)
        else:
            group_of = grouping(by)
            sums = {}
            for name, size, samples in zip(self.names, self.sizes, self.samples.T, strict=True):
                before, elements = sums.get(group_of(name), (0.0, 0))
                sums[group_of(name)] = (before + samples, elements + size)
        rows = [
            {by: group, "elements": elements, "trace": samples.mean(), "standard_error": _standard_error(samples)}
            for group, (samples, elements) in sums.items()
        ]
        frame = pd.DataFrame(rows, columns=[by, "elements", "trace", "standard_error"]).set_index(by)
        return frame.assign(mean_diagonal=frame["trace"] / frame["elements"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as one safetensors file."""
        facts = {"tensors": self.names, "sizes": self.sizes, "label": self.label}
        facts["parts"] = {name: elements for name, (_, elements) in self.parts.items()}
        parts = {f"part {name}": samples for name, (samples, _) in self.parts.items()}
        write_tensors(path, "HessianTrace", {"samples": self.samples, **parts}, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HessianTrace:
        """Read what `save` wrote; FileNotFoundError or ValueError if there is none at `path`."""
        arrays, facts = read_tensors(path, "HessianTrace")
        parts = {name: (arrays[f"part {name}"].numpy(), size) for name, size in facts["parts"].items()}
        return cls(arrays["samples"].numpy(), tuple(facts["tensors"]), tuple(facts["sizes"]), facts["label"], parts)

    def __repr__(self) -> str:
        return f"HessianTrace({self.label}: {self.mean:.4g} ± {self.standard_error:.2g} from {self.n_probes} probes)"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.layers.to_html(float_format=lambda v: f'{v:.4g}')}"


def hessian_trace(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    n_probes: int = 30,
    *,
    selection: Selection | None = None,
    parts: Mapping[str, Selection] | None = None,
    seed: int = 0,
    loss: Loss | None = None,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> HessianTrace:
    """Estimate the trace of the Hessian of L = 1/N Σ_n L_n, in total and for each tensor.

    Hutchinson: tr H = E[vᵀ H v] for v of independent random signs; restricted to the entries of one tensor, vₜᵀ(H v)ₜ
    has the trace of that tensor's block as its mean. So it is for any set of elements: `parts` (name -> Selection)
    are estimated from the same probes, which costs nothing. When `stop` is set, or on Ctrl-C, the probes done so far
    are returned.

    Raises ValueError for n_probes below 2, RuntimeError if it is stopped before the second probe.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> batches = [{"input": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}]  # Hessian diag(9, 1)
    >>> round(hessian_trace(model, batches, n_probes=4, loss=square, progress=False).mean, 4)
    10.0
    """
    if isinstance(n_probes, bool) or not isinstance(n_probes, (int, np.integer)) or n_probes < 2:
        raise ValueError(f"expected n_probes as a whole number of at least 2 (for a standard error), got {n_probes!r}")
    samples = []
    with (
        interruptible(stop) as stopping,
        Hessian(model, batches, selection=selection, loss=loss) as hessian,
        progress_bar(total=n_probes, description="Hutchinson", unit="probe", show=progress) as bar,
    ):
        n = hessian.shape[0]
        places = {name: hessian.places(part) for name, part in (parts or {}).items()}
        for probe in range(n_probes):
            if stopping():
                break
            signs = random_signs(n, hessian.dtype, seed=seed, probe=probe)
            diagonal = signs * (hessian @ signs)  # its mean over probes is H's diagonal
            samples.append(hessian.sums(diagonal, places))
            bar.update()
    if len(samples) < 2:
        raise RuntimeError("the trace was stopped before the second probe; nothing can be said of it")
    every, tensors = np.array(samples), len(hessian.names)
    found = {name: (every[:, tensors + k], len(place)) for k, (name, place) in enumerate(places.items())}
    return HessianTrace(every[:, :tensors], tuple(hessian.names), tuple(hessian.sizes), hessian.label, found)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
