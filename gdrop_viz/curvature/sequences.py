"""Curvature by sequence: trace of each sequence's Hessian beside its squared gradient, with errors over sequences."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from gdrop_viz.base.checks import whole
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.intervals import mean_with_errors, rank_agreement, ratio_of_sums
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.saved import Saved
from gdrop_viz.curvature.hutchinson import Hutchinson, grouped
from gdrop_viz.curvature.operator import SumOperator
from gdrop_viz.fisher.batch import batch_size, part_of
from gdrop_viz.perturbation.selection import Selection, grouping

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class SequenceCurvature(Saved):
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
        group_of = grouping(by)
        scores = grouped(self.names, self.sizes, self.scores, group_of)
        traces = grouped(self.names, self.sizes, self.traces, group_of)
        return {group: (traces[group][0], *scores[group]) for group in scores}

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
        """Return Hessian trace / sum of the Fisher scores with its errors and interval over sequences.

        Entries: ratio, standard_error, probe_error, text_error, low, high; how: `base.intervals.ratio_of_sums`.
        """
        import pandas as pd

        ((traces, scores, _),) = self.groups("all").values()
        probe_error = mean_with_errors(traces)[2]
        return pd.Series(ratio_of_sums(traces.mean(axis=1), scores, probe_error=probe_error))

    def rank_correlation(self, by: str = "place") -> pd.Series:
        """Return the Spearman correlation of mean Hessian diagonal and mean score over groups, with its interval.

        Entries: rank_correlation, low, high; how: `base.intervals.rank_agreement`.
        """
        import pandas as pd

        groups = self.groups(by).values()
        sizes = np.array([elements for _, _, elements in groups])
        traces = np.stack([traces.mean(axis=1) for traces, _, _ in groups], axis=1) / sizes
        return pd.Series(rank_agreement(traces, np.stack([scores for _, scores, _ in groups], axis=1) / sizes))

    def _summary(self) -> str:
        ratio = self.ratio()
        return (
            f"{self.label}: trace / Fisher {ratio['ratio']:.3g} ± {ratio['standard_error']:.2g} "
            f"from {self.n_sequences} sequences x {self.n_probes} probes"
        )

    def _table(self) -> pd.DataFrame:
        return self.to_frame("layer")


def by_sequence(
    hessian: SumOperator,
    n_probes: int = 2,
    *,
    parts: Mapping[str, Selection] | None = None,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> SequenceCurvature:
    """Estimate for each sequence the trace of its Hessian, and the sum of its squared gradient, on the same pass.

    Hutchinson's estimator as in `trace`, but the unit is the sequence, and every sequence has probes of its own: the
    sequences' estimates are then independent, so their spread holds the chance of the text AND that of the probes,
    and the ratio of the two diagonals gets an error bar that means what it says. Costs one forward pass, one gradient
    and `n_probes` second derivatives per sequence.

    Parameters
    ----------
    n_probes
        Random vectors for each sequence. 2 or more tell the chances of text and probes apart; more sequences make
        both smaller, more probes only the second.
    parts
        Name -> Selection: sets of elements that are estimated beside the tensors, from the same probes.
    seed
        Of the probes.
    progress
        Show a progress bar.
    stop
        When it is set, or on Ctrl-C, the sequences done so far are returned.

    Returns
    -------
    SequenceCurvature
        Traces and scores of each sequence, for every tensor and part.

    Raises
    ------
    ValueError
        For n_probes below 1 or fewer than two sequences.
    RuntimeError
        If it is stopped before the second sequence.
    """
    whole(n_probes, "n_probes")
    total = sum(map(batch_size, hessian.batches))
    if total < 2:
        raise ValueError(f"expected at least two sequences (for an error over them), got {total}; give more batches")
    traces, scores = [], []
    with (
        interruptible(stop) as stopping,
        hessian,
        progress_bar(total=total, description="curvature", unit="sequence", show=progress) as bar,
    ):
        estimate = Hutchinson(hessian, parts, seed)
        for number, (one, where, first) in enumerate(_sequences(hessian.batches)):
            if stopping():
                break
            gradient, times = hessian.of(one, where, first)
            scores.append(estimate.sums(gradient**2))
            probes = range(number * n_probes, (number + 1) * n_probes)
            traces.append([estimate.sample(times, probe) for probe in probes])
            bar.update()
    if len(scores) < 2:
        raise RuntimeError("the curvature was stopped before the second sequence; nothing can be said of it")
    of_tensors, of_parts = estimate.apart(traces)
    squares, squares_of_parts = estimate.apart(scores)
    triples = {name: (values, *squares_of_parts[name]) for name, (values, _) in of_parts.items()}
    return SequenceCurvature(of_tensors, squares, tuple(hessian.names), tuple(hessian.sizes), hessian.label, triples)


def _sequences(batches: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[dict[str, Tensor], str, int]]:
    """Each sequence alone, the batch that it is in, and its number there."""
    for number, batch in enumerate(batches):
        for n in range(batch_size(batch)):
            yield part_of(batch, slice(n, n + 1)), f"batch {number}", n
