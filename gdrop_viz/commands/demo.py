"""`demo`: the whole method in a few minutes: Fisher information, landscape, guided dropout, comparison."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import gdrop_viz as gv
from gdrop_viz.base.files import atomic_path
from gdrop_viz.commands.fisher import information_in_top
from gdrop_viz.commands.jobs import job
from gdrop_viz.commands.landscape import Part, planes_of, rise_at_edge
from gdrop_viz.commands.page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gdrop_viz.dropout import DropoutSchedule
    from gdrop_viz.finetuning import Comparison
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape import Surface
    from gdrop_viz.models.pretrained import Pretrained

ARMS = ("guided", "standard", "matched-mean uniform", "reversed")
FRACTIONS = (1.0, 0.25)


@job
def demo(
    output: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("build/demo.html"),
    model: Annotated[str, typer.Option(help="A bundled model, a local folder or a hub id.")] = "bert-mini",
    task: Annotated[str, typer.Option(help="A bundled task, a GLUE task or a local file.")] = "sentiment",
    n_train: Annotated[int, typer.Option(help="Training sentences of the comparison.")] = 400,
    seeds: Annotated[int, typer.Option(help="Seeds per arm and data fraction.")] = 3,
) -> None:
    """Walk through the whole method in a few minutes and write one page with findings and pictures.

    Fine-tuning runs are kept beside the page (`demo-runs/`), so that a second call repeats none of them.
    """
    start = time.monotonic()
    page = Page("gdrop_viz: the whole walk")
    lm = gv.load_pretrained(model)
    page.text(f"{lm.name}, objective {lm.objective}; every figure below was computed by this run.", kind="note")

    fisher = _information(page, lm)
    surfaces = _landscape(page, lm, fisher)
    schedule = _dropout(page, lm, fisher)
    rows = gv.load_task(task)
    rows = rows.subset(n_train=min(n_train, len(rows.train)), n_validation=min(500, len(rows.validation)))
    result = gv.compare(
        lm, rows, dict(zip(ARMS, (schedule, 0.1, schedule.matched_uniform(), schedule.reversed()), strict=True)),
        fractions=FRACTIONS, seeds=range(seeds), path=output.parent / "demo-runs",
    )  # fmt: skip
    _comparison(page, rows.name, result)
    picture = output.with_suffix(".png")
    with atomic_path(picture) as temporary:
        _overview(fisher, surfaces, schedule, result).savefig(temporary, dpi=110, facecolor="white")
    page.text(f"The walk took {time.monotonic() - start:.0f} s.", kind="note")
    page.write(output)
    print(f"\nPictures and tables: {output}; in one picture: {picture}")


def _text(lm: Pretrained, n_sequences: int) -> gv.Batches:
    from gdrop_viz.finetuning.encoding import length_limit

    length = min(128, length_limit(lm))
    return gv.pretraining_batches(lm, n_sequences=n_sequences, batch_size=min(16, n_sequences), max_length=length)


def _say(page: Page, findings: str) -> None:
    for finding in findings.splitlines():
        print(f"- {finding}", flush=True)
        page.text(finding, kind="finding")


def _information(page: Page, lm: Pretrained) -> Fisher:
    page.heading("1. Where does the model keep its information?")
    batches = _text(lm, 256)
    fisher = gv.fisher_information(lm.model, batches)
    curve = fisher.concentration()
    _say(
        page,
        f"On {fisher.n_sequences} sequences of held-out text, the top 1 % of the parameters carry "
        f"{information_in_top(curve, 0.01):.0%} of the Fisher information, the top 10 % carry "
        f"{information_in_top(curve, 0.1):.0%} (Gini coefficient {curve.attrs['gini']:.2f}).",
    )
    agreement = fisher.stability().iloc[-1]
    _say(
        page,
        f"Two texts of this length would agree on the order of layers and components with a rank correlation of "
        f"{agreement['agreement']:.3f} (95 % interval {agreement['low']:.3f} to {agreement['high']:.3f}).",
    )
    page.picture(gv.plots.fisher_heatmap(fisher), "Mean Fisher score of each component along the depth")
    page.picture(
        gv.plots.fisher_concentration(fisher, log=True), "Share of the information carried by the best parameters"
    )
    return fisher


def _landscape(page: Page, lm: Pretrained, fisher: Fisher) -> dict[str, Surface]:
    page.heading("2. What happens to the loss when those parameters move?")
    batches = _text(lm, 32)
    # equal distance: the same Gaussian draw in as many parameters, scaled to norm 1
    planes = planes_of(lm, fisher, (Part.top, Part.random, Part.bottom), 0.01, equal_distance=True)
    extent = gv.proposed_extent(lm.model, batches, planes["top 1 %"])
    surfaces = gv.loss_surfaces(lm.model, batches, planes, extent=extent, points=9)
    centre = next(iter(surfaces.values())).centre_loss
    rises = ", ".join(f"{rise_at_edge(surface):+.2f} nats ({name})" for name, surface in surfaces.items())
    _say(
        page,
        f"Moving 1 % of the parameters along random directions, up to a distance of {extent * 2**0.5:.1f} from the "
        f"trained weights (loss {centre:.2f} nats), changes the loss at the farthest points by {rises}.",
    )
    page.picture(gv.plots.compare_surfaces(surfaces), "Pretraining loss on planes of equal size, one colour scale")
    return surfaces


def _dropout(page: Page, lm: Pretrained, fisher: Fisher) -> DropoutSchedule:
    page.heading("3. Guided dropout: less noise where the information is")
    schedule = gv.guided_dropout(lm.model, fisher, lower=0.0, upper=0.1)
    batch = _text(lm, 8)[0]
    with schedule.applied(lm.model):
        measured = gv.measured_dropout(lm.model, batch)
    worst = max(abs(measured[name] - rate) for name, rate in schedule.rates.items())
    _say(
        page,
        f"{len(schedule.rates)} dropout sites get rates between {min(schedule.rates.values()):.3f} and "
        f"{max(schedule.rates.values()):.3f}, mean {schedule.mean_rate:.3f}; a training-mode forward really used them "
        f"(largest difference {worst:.1e}).",
    )
    page.picture(gv.plots.dropout_rates(schedule), "Dropout rate of every site")
    return schedule


def _comparison(page: Page, task: str, result: Comparison) -> None:
    page.heading("4. Does it fine-tune better?")
    summary = result.summary().set_index(["fraction", "arm"])
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))
    page.table(summary, caption=f"{task}: mean over seeds with its 95 % interval, on validation")
    page.picture(gv.plots.comparison(result), "Every run, the mean and its 95 % interval")
    for other in ARMS[1:]:
        _say(page, result.verdict("guided", other))


def _overview(fisher: Fisher, surfaces: dict[str, Surface], schedule: DropoutSchedule, result: Comparison) -> Figure:
    """The four steps in one picture."""
    import matplotlib.pyplot as plt

    # a layout of its own for each, so that one picture's legend does not squeeze its neighbour
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    parts: Any = figure.subfigures(2, 2, wspace=0.04, hspace=0.04)
    axes = [part.subplots() for part in parts.flat]
    gv.plots.fisher_heatmap(fisher, ax=axes[0])
    gv.plots.surface_radial(surfaces, ax=axes[1], distance=True, title="Loss by what moves")
    gv.plots.dropout_rates(schedule, ax=axes[2])
    gv.plots.comparison(result, ax=axes[3])
    plt.close(figure)
    return figure
