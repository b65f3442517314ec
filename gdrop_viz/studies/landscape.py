"""How does a model's loss rise along informative and other parameters, and how is it curved? Measured, resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import instance
from gdrop_viz.base.files import atomic_path, file_stem
from gdrop_viz.base.saved import json_seal
from gdrop_viz.curvature import SequenceCurvature, sequence_curvature
from gdrop_viz.landscape.extent import proposed_extent
from gdrop_viz.landscape.surface import surface_path
from gdrop_viz.landscape.sweep import loss_surface
from gdrop_viz.models.digest import model_digest
from gdrop_viz.perturbation import Direction, random_direction
from gdrop_viz.perturbation.ranking import bottom_k, random_k, top_k
from gdrop_viz.studies.landscape_findings import FORMAT, LandscapeFindings

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.models.pretrained import Pretrained
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

    The sets are chosen by the Fisher information of some sequences; the loss is measured on `n_sequences` others,
    curvature and the scores beside it on these and more, `n_curvature` in all, with `n_probes` random probes each
    (`n_fisher` is rounded up to whole batches of 16). Every comparison uses `n_directions` Gaussian
    directions, the same draw for all of its sets; random sets are drawn anew for each. The distance is that at which
    the top 1 % have raised the loss by about a nat, doubled. The lines are kept in `work` as they grow, so that a
    stopped or killed run goes on where it was.

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
    settings = {
        "model": model_digest(lm.model),
        "text": batches.checksum,
        "scores_from": chosen_on.checksum,
        "max_length": max_length,
        "n_directions": n_directions,
        "n_probes": n_probes,
        "curvature_text": curved_on.checksum,
    }
    work = Path(work) / f"{file_stem(lm.name)}-{settings['model'][:8]}-{batches.checksum[:8]}-{chosen_on.checksum[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    fisher = fisher_information(lm.model, chosen_on, checkpoint=work / "fisher.checkpoint", progress=progress)
    _whole(fisher.n_sequences == chosen_on.n_sequences)
    rises = []
    for comparison, moved, seed, direction in _directions(lm, fisher, batches, n_directions):
        label = f"{comparison} {moved} {seed}"
        path = surface_path(work, label)
        line = loss_surface(lm.model, batches, direction, 1.0, 5, path=path, label=label, progress=progress)
        _whole(line.is_complete)
        each = line.sequence_losses - line.sequence_losses[2]
        for step, ends in ((0.5, [1, 3]), (1.0, [0, 4])):
            rise = each[ends].mean(axis=0)
            row = {"comparison": comparison, "moved": moved, "seed": seed, "norm": direction.norm, "step": step}
            row |= {"rise": rise.mean(), "standard_error": rise.std(ddof=1) / np.sqrt(len(rise))}
            rises.append(row)
    curvature, sequences = _curvature(lm, fisher, curved_on, n_probes, work, progress)
    settings |= {"n_sequences": batches.n_sequences, "n_fisher": fisher.n_sequences}
    settings |= {"n_curvature": curved_on.n_sequences}
    settings["words_per_sequence"] = curved_on.n_predicted / curved_on.n_sequences
    target = Path(folder) / f"{file_stem(lm.name)}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        temporary.write_text(
            findings_json(settings, rises=rises, curvature=curvature, sequences=sequences), encoding="utf-8"
        )
    return LandscapeFindings.load(target)


def _directions(
    lm: Pretrained, fisher: Fisher, batches: Batches, n_directions: int
) -> Iterator[tuple[str, str, int, Direction]]:
    """Every direction of every comparison: comparison, what it moves, seed, direction."""
    model = lm.model
    top, bottom = top_k(fisher, 0.01), bottom_k(fisher, 0.01)
    halves = {"the top half": top_k(fisher, 0.5, by="tensor"), "the bottom half": bottom_k(fisher, 0.5, by="tensor")}
    free, filtered = {"normalize": "none", "move_vectors": True}, {"normalize": "filter", "move_vectors": True}
    ones = [random_direction(model, seed=seed, selection=top, norm=1.0, **free) for seed in (0, 1)]
    distance = proposed_extent(model, batches, ones)
    for seed in range(n_directions):
        sets = {"the top 1 %": top, "a random 1 %": random_k(model, 0.01, seed=seed)}
        more = {**sets, "as many at random in each tensor": top.random_like(seed=seed), "the bottom 1 %": bottom}
        for comparison, choice, how in ((EQUAL, more, free), (FILTERED, sets, filtered)):
            for moved, selection in choice.items():
                direction = random_direction(model, seed=seed, selection=selection, norm=distance, **how)
                yield comparison, moved, seed, direction
        # as in the paper: each tensor of the direction has the tensor's own norm, vectors stand still
        own = {m: random_direction(model, seed=seed, selection=s, normalize="tensor") for m, s in halves.items()}
        shared = next(iter(own.values())).norm
        for comparison, norm in ((OWN_HALVES, None), (EQUAL_HALVES, shared)):
            for moved, direction in own.items():
                yield comparison, moved, seed, direction if norm is None else direction.scaled(norm)


def _curvature(
    lm: Pretrained, fisher: Fisher, batches: Batches, n_probes: int, work: Path, progress: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trace of the Hessian and sum of the Fisher scores on `batches`, for ranks of the score and for places.

    One row per group with the estimates, and one with what each sequence gave.
    """
    upto = {share: top_k(fisher, share) for share in _RANKS}
    ranks = {f"0 to {100 * _RANKS[0]:g} %": upto[_RANKS[0]]}
    ranks |= {f"{100 * low:g} to {100 * high:g} %": upto[high] & ~upto[low] for low, high in pairwise(_RANKS)}
    path = work / f"curvature-{n_probes}-{batches.checksum[:8]}.safetensors"
    if path.exists():
        found = SequenceCurvature.load(path)
    else:
        found = sequence_curvature(lm.model, batches, n_probes, parts=ranks, progress=progress)
        _whole(found.n_sequences == batches.n_sequences)
        found.save(path)
    rows, each = [], []
    for by, kind in (("rank of the score", "part"), ("place", "place"), ("all", "all")):
        table = found.to_frame(kind).drop(columns=["fisher_error", "ratio"])
        rows += [{"by": by, "group": group, **row.to_dict()} for group, row in table.iterrows()]
        each += [
            {"by": by, "group": group, "traces": traces.mean(axis=1).tolist(), "scores": scores.tolist()}
            for group, (traces, scores, _) in found.groups(kind).items()
        ]
    return rows, each


def _whole(complete: bool) -> None:
    """End here if Ctrl-C has cut a measurement short: a part must not be taken for the whole."""
    if not complete:
        raise KeyboardInterrupt("stopped; what is done is kept, the same call goes on from there")


def findings_json(settings: Mapping[str, Any], **tables: list[dict[str, Any]]) -> str:
    """One row per line, so that a change shows as what it is; sealed as `_sealed.save_json` does it."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [float(f"{number:.4g}") for number in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    parts = [f'"format": {json.dumps(FORMAT)}', f'"settings": {json.dumps(settings)}']
    for name, table in tables.items():
        rows = ",\n".join(json.dumps({key: short(value) for key, value in row.items()}) for row in table)
        parts.append(f'"{name}": [\n{rows}\n]')
    seal = json_seal(json.loads("{" + ",".join(parts) + "}"))
    return "{" + ",\n".join([*parts, seal]) + "}\n"
