"""Plots of the landscape findings on several models: rises by what moves, Fisher scores beside the Hessian."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import instance
from gdrop_viz.plots.picture import Axis, Picture, Reference, Series
from gdrop_viz.plots.render import draw, draw_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gdrop_viz.studies.landscape_findings import LandscapeFindings

_LINEAR_BELOW = 0.1  # nats


def landscape_rises(findings: LandscapeFindings, *, step: float = 1.0) -> Figure:
    """Draw how far the loss rises by what moves: one panel per comparison, a row per set of parameters.

    Each small mark is one random direction, the large one the mean of them with its 95 % interval; models differ in
    marker and hue. The scale is linear up to 0.1 nats and logarithmic above.

    Parameters
    ----------
    findings
        What `studies.measure_landscape` returned.
    step
        How far the weights move, in multiples of the direction.

    Returns
    -------
    Figure
    """
    import matplotlib.pyplot as plt

    from gdrop_viz.studies.landscape_findings import LandscapeFindings

    instance(findings, LandscapeFindings, "findings", "measure_landscape")
    pictures = rises_pictures(findings, step)
    rows = [len(picture.y.ticks or ()) for picture in pictures]
    height = 1.2 + 0.9 * len(rows) + 0.14 * len(findings.settings) * sum(rows)
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(8, height), squeeze=False, sharex=True, layout="constrained",
        gridspec_kw={"height_ratios": rows},
    )  # fmt: skip
    for ax, picture in zip(axes.flat, pictures, strict=True):
        draw_plane(ax, picture)
        ax.set_title(picture.title, fontsize="medium", loc="left")
        ax.set(ylabel="", xlabel=picture.x.label if picture is pictures[-1] else "")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return figure


def rises_pictures(findings: LandscapeFindings, step: float) -> list[Picture]:
    """Pictures of `landscape_rises`, one per comparison, on one axis of the rise."""
    table, rises = findings.summary(step), findings.rises[findings.rises["step"] == step]
    models = list(findings.settings)
    ends = [*rises["rise"], *table["low"], *table["high"], 0.0]
    x = Axis.around("rise of the loss (nats per predicted token)", ends, log=True, linear_below=_LINEAR_BELOW)
    pictures = []
    for comparison in dict.fromkeys(table.index.get_level_values("comparison")):
        part = table.xs(comparison, level="comparison")
        each = rises[rises["comparison"] == comparison]
        moved = list(dict.fromkeys(part.index.get_level_values("moved")))
        dots, means = [], []
        for k, model in enumerate(models):
            shift = (k - (len(models) - 1) / 2) * 0.8 / len(models)
            known = [(row, name) for row, name in enumerate(moved) if (model, name) in part.index]
            places = {name: len(moved) - 1 - row - shift for row, name in known}
            own = each[(each["model"] == model) & each["moved"].isin(list(places))]
            at = [places[name] for name in own["moved"]]
            dots.append(
                Series(
                    model, own["rise"].tolist(), at, style=k, line=False, faint=True, horizontal=True, in_legend=False
                )
            )
            rows = part.xs(model, level="model").reindex(list(places))
            mean, low, high = rows[["rise", "low", "high"]].to_numpy(dtype=float).T
            means.append(
                Series(
                    model, mean, list(places.values()), low, high, style=k, line=False,
                    horizontal=True, details=[f"{model}, {name}" for name in places],
                )
            )  # fmt: skip
        ticks = [(len(moved) - 1 - k, textwrap.fill(name, 24)) for k, name in enumerate(moved)]
        model, name = part["rise"].sort_values().index[-1]
        pictures.append(
            Picture(
                title=comparison,
                summary=f"The loss rises most, by {part['rise'].max():.3g} nats, for {name} of {model}.",
                x=x,
                y=Axis("what moves", (-0.5, len(moved) - 0.5), ticks),
                series=(*dots, *means),
                references=(Reference("x", 0.0),),
            )
        )
    return pictures


def fisher_beside_hessian(findings: LandscapeFindings, *, ax: Axes | None = None) -> Axes:
    """Draw the mean diagonal element of the Hessian over the mean Fisher score, by rank of the score on another text.

    The thin line of the same colour is the proportionality that independent words would give: words per sequence (in
    the legend) times the score. Error bars: ± 1 standard error over sequences, probes included. Groups with a
    negative estimate cannot be drawn on a logarithmic scale, and the title counts them.

    Parameters
    ----------
    findings
        What `studies.measure_landscape` returned.
    ax
        Axes to draw on; by default new ones.

    Returns
    -------
    Axes
    """
    from gdrop_viz.studies.landscape_findings import LandscapeFindings

    instance(findings, LandscapeFindings, "findings", "measure_landscape")
    return draw(hessian_picture(findings), ax, size=(6.4, 5.0))


def hessian_picture(findings: LandscapeFindings) -> Picture:
    """Picture of `fisher_beside_hessian`."""
    ranks = findings.curvature[findings.curvature["by"] == "rank of the score"]
    left_out, series, thin = 0, [], []
    for k, model in enumerate(findings.settings):
        part = ranks[ranks["model"] == model]
        means = part[["fisher", "trace", "standard_error"]].div(part["elements"], axis=0)
        kept = (means["trace"] > 0) & (means["fisher"] > 0)
        left_out += int((~kept).sum())
        fisher, trace, error = (means.loc[kept, name].to_numpy() for name in ("fisher", "trace", "standard_error"))
        words = findings.settings[model]["words_per_sequence"]
        label = f"{model} ({words:.1f} words)"
        series.append(Series(label, fisher, trace, trace - error, trace + error, style=k, bars=True))
        ends = np.array([fisher.max(), fisher.min()])
        thin.append(
            Series("words per sequence", ends, words * ends, style=k, marker=False, faint=True, in_legend=False)
        )
    note = f"{left_out} negative left out; " if left_out else ""
    every = [*series, *thin]
    return Picture(
        title="Fisher scores beside the Hessian",
        summary=f"Mean diagonal of the Hessian against the mean Fisher score of {len(series)} models.",
        x=Axis.around("mean Fisher score (nats²)", [float(v) for one in every for v in one.x], log=True),
        y=Axis.around("mean diagonal of the Hessian (nats)", [float(v) for one in every for v in one.y], log=True),
        series=tuple(every),
        note=f"each point: parameters of one range of ranks; {note}thin: words per sequence x Fisher",
    )
