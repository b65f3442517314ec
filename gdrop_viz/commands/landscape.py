"""`landscape`: surfaces of the pretraining loss around the trained weights."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdrop_viz.commands import fisher as fisher_command
from gdrop_viz.commands import options
from gdrop_viz.commands.jobs import claim, end_stopped, job, stoppable, workers

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape import Surface
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.perturbation import Direction, Selection

FOLDER = "surfaces"


class Part(str, Enum):
    """Which parameters move."""

    top = "top"
    bottom = "bottom"
    random = "random"
    all = "all"


@job
def landscape(
    output: options.Output = Path("results"),
    model: options.Model = "bert-mini",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device: options.Device = "auto",
    fisher: Annotated[
        Path | None, typer.Option(help="Fisher information of this model; else OUTPUT/fisher.safetensors.")
    ] = None,
    move: Annotated[list[Part], typer.Option(help="What moves, one surface each; give it several times.")] = [  # noqa: B006
        Part.top,
        Part.random,
        Part.bottom,
    ],
    share: Annotated[float, typer.Option(min=0, max=1, help="Which share of the parameters that is.")] = 0.01,
    points: Annotated[int, typer.Option(min=2, help="Points per axis; odd: one lies at the trained weights.")] = 11,
    extent: Annotated[
        float | None, typer.Option(help="Reach of the axes; else it shows the first one's walls.")
    ] = None,
    equal_distance: Annotated[
        bool, typer.Option(help="All surfaces at equal distance from the weights; else each along its own size.")
    ] = True,
    text: options.Text = None,
    text_config: options.TextConfig = None,
    sequences: options.Sequences = 32,
    batch_size: options.BatchSize = 16,
    max_length: options.MaxLength = 128,
    seed: options.Seed = 0,
    n_workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    config: options.Config = None,
) -> None:
    """Evaluate loss surfaces around the trained weights: OUTPUT/surfaces/*.h5.

    Moves the top (bottom, random) share of the parameters along two random directions. Needs the Fisher information
    for top and bottom, so run `fisher` with the same --output first. Open a surface in a notebook with
    `gv.Surface.load("results/surfaces/top_1_.h5")`, or with the loss-landscape project's own tools.

    Every point is on disk at once: killed or stopped, the same command computes only the missing ones.

    Example: `python -m gdrop_viz landscape --move top --move random --share 0.01 --points 21 --workers 4`
    """
    from gdrop_viz.landscape import loss_surfaces, proposed_extent
    from gdrop_viz.models.digest import model_digest

    if not share > 0:
        raise ValueError(f"--share must be above 0, got {share}")
    lm = options.load_model(model, revision, trust_remote_code, device)
    scores = _scores(lm, move, fisher or output / fisher_command.FILE)
    planes = planes_of(lm, scores, move, share, equal_distance=equal_distance, seed=seed)
    batches = options.load_text(
        lm, text, text_config, sequences=sequences, batch_size=batch_size, max_length=max_length, seed=seed
    )
    settings: dict[str, Any] = {"model": lm.name, "weights": model_digest(lm.model), "text": batches.checksum}
    settings |= {"points": points, "extent": extent, "equal distance": equal_distance, "seed": seed}
    claim(output, "landscape", settings)
    with stoppable() as stop, workers(n_workers, scheduler) as executor:
        if extent is None:  # where nothing happens on the other planes is a result too
            extent = proposed_extent(lm.model, batches, next(iter(planes.values())))
        surfaces = loss_surfaces(
            lm.model, batches, planes, extent, points, folder=output / FOLDER, executor=executor, stop=stop
        )
    if not all(surface.is_complete for surface in surfaces.values()):
        end_stopped()
    for name, surface in surfaces.items():
        typer.echo(
            f"{name}: {surface.centre_loss:.2f} nats at the trained weights, {rise_at_edge(surface):+.2f} at the "
            "farthest points"
        )
    typer.echo(f"Written: {output / FOLDER}")


def rise_at_edge(surface: Surface) -> float:
    """Return the loss at the points farthest from the trained weights, minus that at them."""
    return float(surface.radial()["loss"].iloc[-1] - surface.centre_loss)


def planes_of(
    lm: Pretrained, fisher: Fisher | None, move: Iterable[Part], share: float, *, equal_distance: bool, seed: int = 0
) -> dict[str, list[Direction]]:
    """Return two random directions for each part: along axes of norm 1, or filter-normalised; its name -> plane."""
    from gdrop_viz.perturbation import bottom_k, random_direction, random_k, top_k

    by = "element" if fisher is None or fisher.scores is not None else "tensor"
    planes = {}
    for part in dict.fromkeys(move):
        selection: Selection | None = None
        if part is Part.random:
            selection = random_k(lm.model, share, seed=seed)
        elif part is not Part.all:
            assert fisher is not None
            selection = (top_k if part is Part.top else bottom_k)(fisher, share, by)
        name = part.value if part is Part.all else f"{part.value} {100 * share:g} %"
        planes[name] = [
            random_direction(
                lm.model, seed=seed + axis, selection=selection, move_vectors=equal_distance,
                normalize="none" if equal_distance else "filter", norm=1.0 if equal_distance else None,
            )
            for axis in (0, 1)
        ]  # fmt: skip
    return planes


def _scores(lm: Pretrained, move: list[Part], file: Path) -> Fisher | None:
    from gdrop_viz.fisher import Fisher

    if not {Part.top, Part.bottom} & set(move):
        return None
    if not file.exists():
        raise FileNotFoundError(
            f"top and bottom need the Fisher information, but {file} does not exist; run `python -m gdrop_viz fisher` "
            "with the same --output first, name a file by --fisher, or choose --move random"
        )
    return Fisher.load(file, model=lm.model)
