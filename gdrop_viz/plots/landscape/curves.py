"""How does the loss run along a line, or with the distance from the trained weights?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.page import axes_or_new, ink, looks, named_surfaces
from gdrop_viz.plots.landscape.words import axis_label, loss_label, text_of, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.landscape.surface import Surface


def surface_section(
    surfaces: Surface | Mapping[str, Surface],
    *,
    axis: str = "x",
    at: float = 0.0,
    rise: bool = False,
    ax: Axes | None = None,
    log: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the loss along a line: 1-D surfaces, or cuts through 2-D ones, with a band of ± 1 standard error.

    rise: draw the loss above the centre's; the band is then that of the paired difference, sequence by sequence,
    which is what tells two curves apart. axis, at: which way the cut runs, and where on the other axis.
    """
    named = named_surfaces(surfaces)
    ax = axes_or_new(ax)
    for (name, surface), (color, style) in zip(named.items(), looks(len(named)), strict=True):
        line = surface.cross_section(axis, at)
        losses, error = line.rise() if rise else (line.loss, line.standard_error)
        known = line.evaluated & np.isfinite(losses)
        x, y, band = line.x[known], losses[known], np.nan_to_num(error[known])
        marker = "o" if len(x) <= 31 else None
        ax.plot(x, y, color=color, linestyle=style, marker=marker, markersize=3, label=name or line.label)
        ax.fill_between(x, y - band, y + band, color=color, alpha=0.25, linewidth=0)
    first = next(iter(named.values())).cross_section(axis, at)
    ax.axvline(0, color=ink(), linewidth=0.6, alpha=0.5)
    if log:
        ax.set_yscale("symlog" if rise else "log")
    along = {axis_label(surface.cross_section(axis, at), 0) for surface in named.values()}
    ax.set(
        xlabel=along.pop() if len(along) == 1 else "multiples of each surface's direction",
        ylabel=("rise of the " if rise else "") + loss_label(named.values()),
    )
    if len(named) > 1:
        ax.legend(frameon=False)
    cut = first.metadata.get("cut")
    where = f"; cut at {cut['axis']} = {cut['at']:g}" if cut else ""
    note = f"band: ± 1 standard error over {text_of(first)}{where}"
    titled(ax, title if title is not None else (first.label if len(named) == 1 else ""), note)
    return ax


def surface_radial(
    surfaces: Surface | Mapping[str, Surface],
    *,
    ax: Axes | None = None,
    rise: bool = False,
    log: bool = False,
    distance: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the mean loss over all angles against the distance from the trained weights; band: ± 1 sd over the angles.

    rise: above the innermost ring's loss. distance: in Euclidean distance of the weights (radius times the mean norm
    of the directions) instead of multiples of the directions.
    """
    named = named_surfaces(surfaces)
    ax = axes_or_new(ax)
    for (name, surface), (color, style) in zip(named.items(), looks(len(named)), strict=True):
        profile = surface.radial()
        radius, loss = profile["radius"].to_numpy(), profile["loss"].to_numpy()
        spread = profile["standard_deviation"].to_numpy()
        if distance:
            norms = [direction["norm"] for direction in surface.metadata.get("directions", [])]
            if not norms:
                raise ValueError("expected surfaces with their directions' norms, got one without; use distance=False")
            radius = radius * np.mean(norms)
        loss = loss - loss[0] if rise else loss
        ax.plot(radius, loss, color=color, linestyle=style, marker="o", markersize=3, label=name or surface.label)
        ax.fill_between(radius, loss - spread, loss + spread, color=color, alpha=0.2, linewidth=0)
    if log:
        ax.set_yscale("symlog" if rise else "log")
    ax.set(
        xlabel="distance from the trained weights" if distance else "radius (multiples of the directions)",
        ylabel=("rise of the " if rise else "") + loss_label(named.values()),
    )
    if len(named) > 1:
        ax.legend(frameon=False)
    first = next(iter(named.values()))
    titled(ax, title if title is not None else "Radial mean", f"band: ± 1 sd over angles; mean of {text_of(first)}")
    return ax
