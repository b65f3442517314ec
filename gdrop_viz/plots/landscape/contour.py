"""What does a surface look like from above? Contours, with the path of a training over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.curves import surface_section
from gdrop_viz.plots.landscape.page import axes_or_new, named_surfaces
from gdrop_viz.plots.landscape.scale import COLORMAP, LossScale, filled_in, plain_ticks
from gdrop_viz.plots.landscape.words import axis_label, loss_label, put_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.landscape.paths import Trajectory
    from gdrop_viz.landscape.surface import Surface


def surface_contour(
    surface: Surface,
    *,
    ax: Axes | None = None,
    log: bool = False,
    clip: float | None = None,
    limits: tuple[float, float] | None = None,
    levels: int = 12,
    colorbar: bool = True,
    trajectory: Trajectory | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a 2-D surface as filled contours; the cross marks the trained weights.

    Parameters
    ----------
    log
        Colours and levels on a logarithmic scale of the loss.
    clip
        Draw everything above this loss in the colour beyond the last level; the title says how many points that are.
    limits
        Lowest and highest loss of the colour scale (to share it with other pictures); default: the surface's own.
    trajectory
        Draw this path (`project_trajectory`) over the surface.

    A surface that is not complete yet is interpolated between its known points, and says so; points whose loss is
    not finite are left blank and counted. A 1-D surface is drawn as a line.
    """
    named_surfaces(surface)
    if surface.y is None:
        return surface_section(surface, ax=ax, log=log, title=title)
    ax = axes_or_new(ax)
    scale = LossScale.of([surface], log=log, clip=clip, limits=limits)
    losses = filled_in(surface)
    # what lies above the scale keeps its value, so that it gets the colour beyond the last level
    losses = np.where(np.isfinite(losses), np.maximum(losses, scale.low), np.nan)
    bounds = scale.levels(levels)
    filled = ax.contourf(
        surface.x, surface.y, losses.T, levels=bounds, norm=scale.norm, cmap=COLORMAP, extend=scale.extend([surface])
    )
    ax.contour(surface.x, surface.y, losses.T, levels=bounds, colors="white", linewidths=0.5, alpha=0.5)
    _mark_centre(ax, surface)
    if trajectory is not None:
        _draw_trajectory(ax, trajectory)
    if colorbar:
        bar = ax.figure.colorbar(filled, ax=ax, label=loss_label([surface]))
        plain_ticks(bar.ax.yaxis, scale, bounds)
    ax.set(xlabel=axis_label(surface, 0), ylabel=axis_label(surface, 1))
    ax.locator_params(nbins=5)
    if _same_span(surface):
        ax.set_aspect("equal")
    put_title(ax, surface, scale, title, trajectory)
    return ax


def _mark_centre(ax: Axes, surface: Surface) -> None:
    if surface.x.min() <= 0 <= surface.x.max() and surface.y.min() <= 0 <= surface.y.max():
        ax.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.5, linestyle="none")


def _draw_trajectory(ax: Axes, trajectory: Trajectory) -> None:
    x, y = trajectory.coordinates.T
    ax.plot(x, y, color="white", linewidth=2.5)
    ax.plot(x, y, color="black", linewidth=1, marker="o", markersize=3.5, markeredgecolor="white", markeredgewidth=0.6)
    ax.plot(x[-1], y[-1], marker="*", color="black", markeredgecolor="white", markersize=12, linestyle="none")


def _same_span(surface: Surface) -> bool:
    wide, tall = np.ptp(surface.x), np.ptp(surface.y)
    return bool(0.5 < wide / tall < 2)
