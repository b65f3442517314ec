"""Study of the loss along informative and other parameters, and of its curvature there: measured, resumable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import instance
from gdrop_viz.base.files import file_stem
from gdrop_viz.curvature import SequenceCurvature, sequence_curvature
from gdrop_viz.landscape.extent import proposed_extent
from gdrop_viz.landscape.surface import surface_path
from gdrop_viz.landscape.sweep import loss_surface
from gdrop_viz.models.digest import model_digest
from gdrop_viz.perturbation import Direction, random_direction
from gdrop_viz.perturbation.ranking import bottom_k, random_k, top_k
from gdrop_viz.studies.landscape_findings import LandscapeFindings, save_findings
from gdrop_viz.studies.whole import whole

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.perturbation.selection import Selection
    from gdrop_viz.text.batches import Batches

EQUAL, FILTERED, OWN_HALVES, EQUAL_HALVES = (
    "1 % of the parameters, equal distance",
    "1 % of the parameters, filter-normalised, equal distance",
    "halves of the tensors, each along its own direction",
    "halves of the tensors, equal distance",
)
_RANKS = (0.001, 0.01, 0.1, 0.5, 1.0)
_BATCH = 16


def measure_landscape(
    lm: Pretrained,
    folder: str | os.PathLike[str],
    *,
    work: str | os.PathLike[str] = "runs/landscape",
    n_fisher: int = 256,
    n_sequences: int = 32,
    max_length: int = 64,
    n_directions: int = 8,
    n_curvature: int = 128,
    n_probes: int = 2,
    progress: bool = True,
) -> LandscapeFindings:
    """Measure on one model how the loss rises along informative and other parameters; write `folder`/<name>.json.

    Every comparison uses the same Gaussian draws for all of its sets of parameters; random sets are drawn anew for
    each. The distance is that at which the top 1 % have raised the loss by about a nat, doubled.

    Parameters
    ----------
    lm
        A pretrained model; it comes back as it was.
    folder
        Where the findings go, one file a model.
    work
        Where unfinished work is kept as it grows: a stopped or killed run goes on where it was.
    n_fisher
        Sequences whose Fisher information chooses the sets of parameters, rounded up to whole batches of 16.
    n_sequences
        Other sequences, on which the loss is measured.
    max_length
        Tokens of a sequence.
    n_directions
        Random directions of each comparison.
    n_curvature
        Sequences on which curvature and the scores beside it are measured: those of the loss, and more.
    n_probes
        Random probes of each sequence's Hessian trace.
    progress
        Whether to show bars.

    Returns
    -------
    LandscapeFindings
        What the file holds.

    Raises
    ------
    TypeError
        If `lm` is no `Pretrained`.
    KeyboardInterrupt
        If a part was stopped by Ctrl-C; what is done is kept.

    Examples
    --------
    >>> measure_landscape(lm, "findings")  # doctest: +SKIP
    """
    from gdrop_viz.fisher import fisher_information
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.batches import pretraining_batches

    instance(lm, Pretrained, "lm", "load_pretrained")

    def text(n: int) -> Batches:  # a longer text begins with the shorter one
        return pretraining_batches(
            lm, n_sequences=n_fisher + n, batch_size=_BATCH, max_length=max_length, progress=progress
        )

    first = -(-n_fisher // _BATCH)
    sample = text(n_sequences)
    chosen_on, batches, curved_on = sample[:first], sample[first:], text(n_curvature)[first:]
    model = model_digest(lm.model)
    work = Path(work) / f"{file_stem(lm.name)}-{model[:8]}-{batches.checksum[:8]}-{chosen_on.checksum[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    fisher = fisher_information(lm.model, chosen_on, checkpoint=work / "fisher.checkpoint", progress=progress)
    whole(fisher.n_sequences == chosen_on.n_sequences)
    rises = []
    for comparison, moved, seed, direction in _directions(lm, fisher, batches, n_directions):
        label = f"{comparison} {moved} {seed}"
        path = surface_path(work, label)
        line = loss_surface(lm.model, batches, direction, 1.0, 5, path=path, label=label, progress=progress)
        whole(line.is_complete)
        assert line.sequence_losses is not None  # every surface that is computed here has them
        each = line.sequence_losses - line.sequence_losses[2]
        for step, ends in ((0.5, [1, 3]), (1.0, [0, 4])):
            rise = each[ends].mean(axis=0)
            row = {"comparison": comparison, "moved": moved, "seed": seed, "norm": direction.norm, "step": step}
            row |= {"rise": rise.mean(), "standard_error": rise.std(ddof=1) / np.sqrt(len(rise))}
            rises.append(row)
    path = work / f"curvature-{n_probes}-{curved_on.checksum[:8]}.safetensors"
    if path.exists():
        found = SequenceCurvature.load(path)
    else:
        found = sequence_curvature(lm.model, curved_on, n_probes, parts=_ranks(fisher), progress=progress)
        whole(found.n_sequences == curved_on.n_sequences)
        found.save(path)
    settings = {
        "model": model,
        "text": batches.checksum,
        "scores_from": chosen_on.checksum,
        "max_length": max_length,
        "n_directions": n_directions,
        "n_probes": n_probes,
        "curvature_text": curved_on.checksum,
        "n_sequences": batches.n_sequences,
        "n_fisher": fisher.n_sequences,
        "n_curvature": curved_on.n_sequences,
        "words_per_sequence": curved_on.n_predicted / curved_on.n_sequences,
    }
    curvature, sequences = _curvature_rows(found)
    target = Path(folder) / f"{file_stem(lm.name)}.json"
    save_findings(target, settings, rises=rises, curvature=curvature, sequences=sequences)
    return LandscapeFindings.load(target)


def _directions(
    lm: Pretrained, fisher: Fisher, batches: Batches, n_directions: int
) -> Iterator[tuple[str, str, int, Direction]]:
    """Every direction of every comparison: comparison, what it moves, seed, direction."""
    model = lm.model

    def drawn(selection: Selection, seed: int, norm: float, normalize: str = "none") -> Direction:
        return random_direction(
            model, seed=seed, selection=selection, normalize=normalize, move_vectors=True, norm=norm
        )

    top, bottom = top_k(fisher, 0.01), bottom_k(fisher, 0.01)
    halves = {"the top half": top_k(fisher, 0.5, by="tensor"), "the bottom half": bottom_k(fisher, 0.5, by="tensor")}
    distance = proposed_extent(model, batches, [drawn(top, seed, 1.0) for seed in (0, 1)])
    for seed in range(n_directions):
        sets = {"the top 1 %": top, "a random 1 %": random_k(model, 0.01, seed=seed)}
        more = {**sets, "as many at random in each tensor": top.random_like(seed=seed), "the bottom 1 %": bottom}
        for comparison, chosen, normalize in ((EQUAL, more, "none"), (FILTERED, sets, "filter")):
            for moved, selection in chosen.items():
                yield comparison, moved, seed, drawn(selection, seed, distance, normalize)
        # as in the paper: each tensor of the direction has the tensor's own norm, vectors stand still
        own = {m: random_direction(model, seed=seed, selection=s, normalize="tensor") for m, s in halves.items()}
        shared = next(iter(own.values())).norm
        for comparison, norm in ((OWN_HALVES, None), (EQUAL_HALVES, shared)):
            for moved, direction in own.items():
                yield comparison, moved, seed, direction if norm is None else direction.scaled(norm)


def _ranks(fisher: Fisher) -> dict[str, Selection]:
    """The parameters by the rank of their score: to 0.1 %, to 1 %, ..."""
    upto = {share: top_k(fisher, share) for share in _RANKS}
    ranks = {f"0 to {100 * _RANKS[0]:g} %": upto[_RANKS[0]]}
    return ranks | {f"{100 * low:g} to {100 * high:g} %": upto[high] & ~upto[low] for low, high in pairwise(_RANKS)}


def _curvature_rows(found: SequenceCurvature) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trace of the Hessian and sum of the scores: a row for each group's estimates, and one for its sequences."""
    rows: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    for by, kind in (("rank of the score", "part"), ("place", "place"), ("all", "all")):
        table = found.to_frame(kind).drop(columns=["fisher_error", "ratio"])
        for group, values in table.to_dict("index").items():
            rows.append({"by": by, "group": group, **{str(name): value for name, value in values.items()}})
        each += [
            {"by": by, "group": group, "traces": traces.mean(axis=1).tolist(), "scores": scores.tolist()}
            for group, (traces, scores, _) in found.groups(kind).items()
        ]
    return rows, each
