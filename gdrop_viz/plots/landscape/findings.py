"""How do the findings on several models look: rises by what moves, and Fisher scores beside the Hessian?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import instance
from gdrop_viz.plots.landscape.page import axes_or_new, ink, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gdrop_viz.studies.landscape_findings import LandscapeFindings

_MARKERS = "osD^vX"


def landscape_rises(findings: LandscapeFindings, *, step: float = 1.0) -> Figure:
    """Draw how far the loss rises by what moves: one panel per comparison, a row per set of parameters.

    Each small mark is one random direction, the large one the mean of them with its 95 % interval; models differ in
    marker and hue. The scale is linear up to 0.1 nats and logarithmic above.
    """
    import textwrap

    import matplotlib.pyplot as plt

    from gdrop_viz.studies.landscape_findings import LandscapeFindings

    instance(findings, LandscapeFindings, "findings", "measure_landscape")
    table, rises = findings.summary(step), findings.rises[findings.rises["step"] == step]
    comparisons = list(dict.fromkeys(table.index.get_level_values("comparison")))
    models = list(findings.settings)
    rows = [len(table.xs(name, level="comparison").index.unique("moved")) for name in comparisons]
    figure, axes = plt.subplots(
        len(comparisons), 1, figsize=(8, 1.2 + 0.9 * len(comparisons) + 0.14 * len(models) * sum(rows)), squeeze=False,
        sharex=True, layout="constrained", gridspec_kw={"height_ratios": rows},
    )  # fmt: skip
    for ax, comparison in zip(axes.flat, comparisons, strict=True):
        part = table.xs(comparison, level="comparison")
        moved = list(dict.fromkeys(part.index.get_level_values("moved")))
        for k, (model, (color, _)) in enumerate(zip(models, looks(len(models)), strict=True)):
            lift = (k - (len(models) - 1) / 2) * 0.8 / len(models)
            for place, name in enumerate(moved):
                if (model, name) not in part.index:
                    continue
                row = part.loc[(model, name)]
                each = rises.query("model == @model and comparison == @comparison and moved == @name")["rise"]
                y = place + lift
                ax.plot(each, np.full(len(each), y), "|", color=color, markersize=7, alpha=0.6)
                ends = [[max(row["rise"] - row["low"], 0)], [max(row["high"] - row["rise"], 0)]]
                label = model if place == 0 else None
                ax.errorbar(row["rise"], y, xerr=ends, fmt=_MARKERS[k % 6], color=color, capsize=3, label=label)
        ax.set_yticks(range(len(moved)), [textwrap.fill(name, 24) for name in moved])
        ax.set_ylim(len(moved) - 0.5, -0.5)
        ax.set_xscale("symlog", linthresh=0.1)
        ax.axvline(0, color=ink(), linewidth=0.6, alpha=0.5)
        ax.set_title(comparison, fontsize="medium", loc="left")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    axes[-1, 0].set_xlabel("rise of the loss (nats per predicted token)")
    return figure


def fisher_beside_hessian(findings: LandscapeFindings, *, ax: Axes | None = None) -> Axes:
    """Draw the mean diagonal element of the Hessian over the mean Fisher score, by rank of the score on another text.

    The thin line of the same colour is the proportionality that independent words would give: words per sequence (in
    the legend) times the score. Error bars: ± 1 standard error over sequences, probes included (over probes alone for
    findings from before sequences were kept apart). Groups with a negative estimate cannot be drawn on a logarithmic
    scale, and the title counts them.
    """
    from gdrop_viz.studies.landscape_findings import LandscapeFindings

    instance(findings, LandscapeFindings, "findings", "measure_landscape")
    ax = axes_or_new(ax)
    ranks = findings.curvature[findings.curvature["by"] == "rank of the score"]
    left_out = 0
    for k, (model, (color, style)) in enumerate(zip(findings.settings, looks(len(findings.settings)), strict=True)):
        part = ranks[ranks["model"] == model]
        means = part[["fisher", "trace", "standard_error"]].div(part["elements"], axis=0)
        kept = (means["trace"] > 0) & (means["fisher"] > 0)
        left_out += int((~kept).sum())
        means = means[kept]
        words = findings.settings[model]["words_per_sequence"]
        ax.errorbar(
            means["fisher"], means["trace"], yerr=means["standard_error"], color=color, linestyle=style,
            marker=_MARKERS[k % 6], capsize=2, label=f"{model} ({words:.1f} words)",
        )  # fmt: skip
        ends = np.array([means["fisher"].max(), means["fisher"].min()])
        ax.plot(ends, words * ends, color=color, linewidth=0.8, alpha=0.7, gid="words per sequence")
    ax.set(xscale="log", yscale="log", xlabel="mean Fisher score (nats²)", ylabel="mean diagonal of the Hessian (nats)")
    ax.legend(frameon=False)
    note = f"; {left_out} negative left out" if left_out else ""
    ax.set_title(
        f"each point: parameters of one range of ranks{note}\nthin: words per sequence x Fisher", fontsize="medium"
    )
    return ax
