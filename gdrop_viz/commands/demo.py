"""The whole method in a few minutes, without a browser: Fisher information, landscape, guided dropout, comparison."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import gdrop_viz as gv
from gdrop_viz.base.files import atomic_path
from gdrop_viz.commands.page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gdrop_viz.dropout import DropoutSchedule
    from gdrop_viz.finetuning import Comparison
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape import Surface
    from gdrop_viz.models.pretrained import Pretrained

ARMS = ("guided", "standard", "matched-mean uniform", "reversed")


def run_demo(
    output: str | os.PathLike[str] = "build/demo.html",
    *,
    model: str = "bert-mini",
    task: str = "sentiment",
    n_train: int = 400,
    seeds: int = 3,
    fractions: tuple[float, ...] = (1.0, 0.25),
    epochs: int = 3,
    progress: bool = True,
) -> Path:
    """Walk through the method on a bundled model, print the findings, and write them with pictures to `output`.

    Fine-tuning runs are kept beside the page (`demo-runs/`), so that a second call repeats none of them.
    """
    output = Path(output)
    start = time.monotonic()
    page = Page("gdrop_viz: the whole walk")
    lm = gv.load_pretrained(model)
    page.text(f"{lm.name}, objective {lm.objective}; every figure below was computed by this run.", kind="note")

    fisher = _information(page, lm, progress)
    surfaces = _landscape(page, lm, fisher, progress)
    schedule = _dropout(page, lm, fisher)
    result = _comparison(
        page,
        lm,
        schedule,
        gv.load_task(task).subset(n_train=n_train, n_validation=500),
        fractions=fractions,
        seeds=seeds,
        epochs=epochs,
        path=output.parent / "demo-runs",
        progress=progress,
    )
    picture = output.with_suffix(".png")
    with atomic_path(picture) as temporary:
        _overview(fisher, surfaces, schedule, result).savefig(temporary, dpi=110, facecolor="white")
    page.text(f"The walk took {time.monotonic() - start:.0f} s.", kind="note")
    page.write(output)
    print(f"\nPictures and tables: {output}; in one picture: {picture}")
    return output


def _say(page: Page, findings: str) -> None:
    for finding in findings.splitlines():
        print(f"- {finding}", flush=True)
        page.text(finding, kind="finding")


def _information(page: Page, lm: Pretrained, progress: bool) -> Fisher:
    page.heading("1. Where does the model keep its information?")
    batches = gv.pretraining_batches(lm, n_sequences=256)
    fisher = gv.fisher_information(lm.model, batches, progress=progress)
    curve = fisher.concentration()
    carried = {share: _at(curve, share) for share in (0.01, 0.1)}
    _say(
        page,
        f"On {fisher.n_sequences} sequences of held-out text, the top 1 % of the parameters carry "
        f"{carried[0.01]:.0%} of the Fisher information, the top 10 % carry {carried[0.1]:.0%} "
        f"(Gini coefficient {curve.attrs['gini']:.2f}).",
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


def _landscape(page: Page, lm: Pretrained, fisher: Fisher, progress: bool) -> dict[str, Surface]:
    page.heading("2. What happens to the loss when those parameters move?")
    batches = gv.pretraining_batches(lm, n_sequences=32)
    chosen = {
        "top 1 %": gv.top_k(fisher, 0.01),
        "random 1 %": gv.random_k(lm.model, 0.01),
        "bottom 1 %": gv.bottom_k(fisher, 0.01),
    }
    # equal distance: the same Gaussian draw in as many parameters, scaled to norm 1
    planes = {
        name: [
            gv.random_direction(lm.model, seed=s, normalize="none", selection=chosen[name], move_vectors=True, norm=1.0)
            for s in (0, 1)
        ]
        for name in chosen
    }
    extent = gv.proposed_extent(lm.model, batches, planes["top 1 %"])
    surfaces = gv.loss_surfaces(lm.model, batches, planes, extent=extent, points=9, progress=progress)
    centre = next(iter(surfaces.values())).centre_loss
    edges = {name: surface.radial()["loss"].iloc[-1] - centre for name, surface in surfaces.items()}
    told = ", ".join(f"{edge:+.2f} nats ({name})" for name, edge in edges.items())
    _say(
        page,
        f"Moving 1 % of the parameters along random directions, up to a distance of {extent * 2**0.5:.1f} from the "
        f"trained weights (loss {centre:.2f} nats), changes the loss at the farthest points by {told}.",
    )
    page.picture(gv.plots.compare_surfaces(surfaces), "Pretraining loss on planes of equal size, one colour scale")
    return surfaces


def _dropout(page: Page, lm: Pretrained, fisher: Fisher) -> DropoutSchedule:
    page.heading("3. Guided dropout: less noise where the information is")
    schedule = gv.guided_dropout(lm.model, fisher, lower=0.0, upper=0.1)
    batch = gv.pretraining_batches(lm, n_sequences=8, batch_size=8)[0]
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


def _comparison(
    page: Page, lm: Pretrained, schedule: DropoutSchedule, task: gv.Task, *, progress: bool, **settings: object
) -> Comparison:
    page.heading("4. Does it fine-tune better?")
    arms = dict(zip(ARMS, (schedule, 0.1, schedule.matched_uniform(), schedule.reversed()), strict=True))
    settings["seeds"] = range(settings["seeds"])
    result = gv.compare(lm, task, arms, progress=progress, **settings)
    summary = result.summary().set_index(["fraction", "arm"])
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))
    page.table(summary, caption=f"{task.name}: mean over seeds with its 95 % interval, on validation")
    page.picture(gv.plots.comparison(result), "Every run, the mean and its 95 % interval")
    for other in ARMS[1:]:
        _say(page, result.verdict("guided", other))
    return result


def _overview(fisher: Fisher, surfaces: dict[str, Surface], schedule: DropoutSchedule, result: Comparison) -> Figure:
    """The four steps in one picture."""
    import matplotlib.pyplot as plt

    # a layout of its own for each, so that one picture's legend does not squeeze its neighbour
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    axes = [part.subplots() for part in figure.subfigures(2, 2, wspace=0.04, hspace=0.04).flat]
    gv.plots.fisher_heatmap(fisher, ax=axes[0])
    gv.plots.surface_radial(surfaces, ax=axes[1], distance=True, title="Loss by what moves")
    gv.plots.dropout_rates(schedule, ax=axes[2])
    gv.plots.comparison(result, ax=axes[3])
    plt.close(figure)
    return figure


def _at(curve: object, share: float) -> float:
    """Information carried by the best `share` of the parameters."""
    import numpy as np

    return float(np.interp(share, curve["parameters"], curve["information"]))
