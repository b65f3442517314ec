"""How does the Fisher diagonal compare with the Hessian's, and how sure is that? Both, sequence by sequence."""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.intervals import mean_with_errors, rank_agreement, ratio_of_sums
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.tensor_file import read_tensors, write_tensors
from gdrop_viz.curvature.hessian import Hessian, random_signs
from gdrop_viz.fisher.batch import batch_size, part_of
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.selection import Selection, grouping

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class SequenceCurvature:
    """Estimates of tr H_n, and sums of (∂L_n/∂θ)², for each sequence n and group of parameters.

    Attributes
    ----------
    traces
        (n_sequences, n_probes, n_tensors): vₜᵀ(H_n v)ₜ, every sequence with random signs v of its own.
    scores
        (n_sequences, n_tensors): Σ (∂L_n/∂θ)² over the tensor's elements; its mean is the sum of their Fisher scores.
    names, sizes
        The tensors, and how many (selected) elements each has.
    label
        Over which parameters.
    parts
        Name -> (traces (n_sequences, n_probes), scores (n_sequences,), elements) of each selection asked for.
    """

    traces: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    label: str
    parts: Mapping[str, tuple[np.ndarray, np.ndarray, int]] = field(default_factory=dict)

    @property
    def n_sequences(self) -> int:
        """How many sequences were measured."""
        return self.traces.shape[0]

    @property
    def n_probes(self) -> int:
        """How many random probes each sequence had."""
        return self.traces.shape[1]

    def groups(self, by: str = "tensor") -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
        """Sum over "tensor", "layer", "component", "place" (component of a layer), "part" or "all".

        Group -> (traces (n_sequences, n_probes), scores (n_sequences,), elements).
        """
        if by == "part":
            return dict(self.parts)
        group_of = _group_of(by)
        sums: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
        for t, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            traces, scores, elements = sums.get(group_of(name), (0.0, 0.0, 0))
            sums[group_of(name)] = (traces + self.traces[:, :, t], scores + self.scores[:, t], elements + size)
        return sums

    def to_frame(self, by: str = "tensor") -> pd.DataFrame:
        """Return one row per group (see `groups`).

        Columns: elements; trace, its standard_error (over sequences: text and probes together) and the probe_error
        within it; fisher (sum of the scores) and its fisher_error over sequences; ratio = trace / fisher.
        """
        import pandas as pd

        rows = []
        for group, (traces, scores, elements) in self.groups(by).items():
            trace, error, probe_error = mean_with_errors(traces)
            fisher, fisher_error, _ = mean_with_errors(scores[:, None])
            row = {by: group, "elements": elements, "trace": trace, "standard_error": error, "probe_error": probe_error}
            rows.append({**row, "fisher": fisher, "fisher_error": fisher_error})
        frame = pd.DataFrame(rows).set_index(by)
        return frame.assign(ratio=frame["trace"] / frame["fisher"])

    def ratio(self) -> pd.Series:
        """Return Hessian trace / sum of the Fisher scores with its error; see `over_sequences.ratio_of_sums`."""
        import pandas as pd

        ((traces, scores, _),) = self.groups("all").values()
        probe_error = mean_with_errors(traces)[2]
        return pd.Series(ratio_of_sums(traces.mean(axis=1), scores, probe_error=probe_error))

    def rank_correlation(self, by: str = "place") -> pd.Series:
        """Return the Spearman correlation of mean Hessian diagonal and mean score over groups, with its interval.

        See `over_sequences.rank_agreement`.
        """
        import pandas as pd

        groups = self.groups(by).values()
        sizes = np.array([elements for _, _, elements in groups])
        traces = np.stack([traces.mean(axis=1) for traces, _, _ in groups], axis=1) / sizes
        return pd.Series(rank_agreement(traces, np.stack([scores for _, scores, _ in groups], axis=1) / sizes))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as one safetensors file."""
        facts = {"tensors": self.names, "sizes": self.sizes, "label": self.label}
        facts["parts"] = {name: elements for name, (_, _, elements) in self.parts.items()}
        arrays = {"traces": self.traces, "scores": self.scores}
        for name, (traces, scores, _) in self.parts.items():
            arrays |= {f"traces of {name}": traces, f"scores of {name}": scores}
        write_tensors(path, "SequenceCurvature", arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SequenceCurvature:
        """Read what `save` wrote; FileNotFoundError or ValueError if there is none at `path`."""
        tensors, facts = read_tensors(path, "SequenceCurvature")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        parts = {n: (arrays[f"traces of {n}"], arrays[f"scores of {n}"], size) for n, size in facts["parts"].items()}
        names, sizes = tuple(facts["tensors"]), tuple(facts["sizes"])
        return cls(arrays["traces"], arrays["scores"], names, sizes, facts["label"], parts)

    def __repr__(self) -> str:
        ratio = self.ratio()
        return (
            f"SequenceCurvature({self.label}: trace / Fisher {ratio['ratio']:.3g} ± {ratio['standard_error']:.2g} "
            f"from {self.n_sequences} sequences x {self.n_probes} probes)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_frame('layer').to_html(float_format=lambda v: f'{v:.4g}')}"


def sequence_curvature(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    n_probes: int = 2,
    *,
    selection: Selection | None = None,
    parts: Mapping[str, Selection] | None = None,
    seed: int = 0,
    loss: Loss | None = None,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> SequenceCurvature:
    """Estimate for each sequence the trace of its Hessian, and the sum of its squared gradient, on the same pass.

    Hutchinson, as `hessian_trace`, but the unit is the sequence, and every sequence has probes of its own: the
    sequences' estimates are then independent, so their spread holds the chance of the text AND that of the probes,
    and the ratio of the two diagonals gets an error bar that means what it says. `n_probes` of 2 or more tell the two
    chances apart; more sequences make both smaller, more probes only the second.

    Costs one forward pass, one gradient and `n_probes` second derivatives per sequence. When `stop` is set, or on
    Ctrl-C, the sequences done so far are returned.

    Raises ValueError for n_probes below 1 or fewer than two sequences, RuntimeError if it is stopped before the second.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2  # H_n = 2 x xᵀ, gradient 2 (w·x) x
    >>> batches = [{"input": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}]
    >>> frame = sequence_curvature(model, batches, loss=square, progress=False).to_frame()
    >>> frame[["trace", "fisher"]].values.tolist()  # means of 18 and 2, of 324 and 4
    [[10.0, 164.0]]
    """
    if isinstance(n_probes, bool) or not isinstance(n_probes, (int, np.integer)) or n_probes < 1:
        raise ValueError(f"expected n_probes as a whole number of at least 1, got {n_probes!r}")
    batches = [batches] if isinstance(batches, Mapping) else list(batches)
    hessian = Hessian(model, batches, selection=selection, loss=loss)  # checks model, batches and weights
    total = sum(map(batch_size, batches))
    if total < 2:
        raise ValueError(f"expected at least two sequences (for an error over them), got {total}")
    places = {name: hessian.places(part) for name, part in (parts or {}).items()}
    traces, scores = [], []
    with (
        interruptible(stop) as stopping,
        hessian,
        progress_bar(total=total, description="curvature", unit="sequence", show=progress) as bar,
    ):
        for number, (one, where, first) in enumerate(_sequences(batches)):
            if stopping():
                break
            gradient, times = hessian.of(one, where, first)
            scores.append(hessian.sums(gradient**2, places))
            probes = range(number * n_probes, (number + 1) * n_probes)
            signs = (random_signs(hessian.shape[0], hessian.dtype, seed=seed, probe=probe) for probe in probes)
            traces.append([hessian.sums(v * times(v), places) for v in signs])
            bar.update()
    if len(scores) < 2:
        raise RuntimeError("the curvature was stopped before the second sequence; nothing can be said of it")
    every, squares = np.array(traces), np.array(scores)
    n = len(hessian.names)
    of_parts = {
        name: (every[:, :, n + k], squares[:, n + k], len(place)) for k, (name, place) in enumerate(places.items())
    }
    names, sizes = tuple(hessian.names), tuple(hessian.sizes)
    return SequenceCurvature(every[:, :, :n], squares[:, :n], names, sizes, hessian.label, of_parts)


def _sequences(batches: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[dict[str, Tensor], str, int]]:
    """Each sequence alone, the batch that it is in, and its number there."""
    for number, batch in enumerate(batches):
        for n in range(batch_size(batch)):
            yield part_of(batch, slice(n, n + 1)), f"batch {number}", n


def _group_of(by: str) -> Callable[[str], str]:
    if by == "all":
        return lambda name: "all"
    if by == "place":
        layer, component = grouping("layer"), grouping("component")
        return lambda name: f"{layer(name)}, {component(name)}"
    return grouping(by)
