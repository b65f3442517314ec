"""Filled-contour plot of a 2-D surface, with the path of a training over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.axes import named_surfaces
from gdrop_viz.plots.landscape.curves import surface_section
from gdrop_viz.plots.landscape.picture import surface_picture
from gdrop_viz.plots.landscape.scale import LossScale, name_ticks
from gdrop_viz.plots.render import COLORMAP, colour_norm, new_axes, titled
from gdrop_viz.plots.render import levels as bands

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
    surface
        What `gv.loss_surface` returned; a 1-D surface is drawn as a line.
    ax
        Axes to draw on; by default new ones.
    log
        Colours and levels on a logarithmic scale of the loss.
    clip
        Draw everything above this loss in the colour beyond the last level; the title says how many points that are.
    limits
        Lowest and highest loss of the colour scale (to share it with other pictures); default: the surface's own.
    levels
        About how many bands of colour.
    colorbar
        Whether the scale is drawn beside the surface.
    trajectory
        Draw this path (`project_trajectory`) over the surface.
    title
        By default the surface's label.

    Returns
    -------
    Axes
        A surface that is not complete yet is interpolated between its known points, and says so; points whose loss is
        not finite are left blank and counted.
    """
    named_surfaces(surface)
    if surface.y is None:
        return surface_section(surface, ax=ax, log=log, title=title)
    ax = new_axes((6.0, 4.6)) if ax is None else ax
    scale = LossScale.of([surface], log=log, clip=clip, limits=limits)
    notes = [] if trajectory is None else [f"the plane holds {100 * trajectory.explained:.0f} % of the path"]
    picture = surface_picture(surface, scale, title=title, notes=notes)
    cells = picture.cells
    assert cells is not None  # of a surface
    # what lies above the scale keeps its value, so that it gets the colour beyond the last level
    losses = np.where(np.isfinite(cells.values), np.maximum(cells.values, scale.low), np.nan)
    bounds = bands(cells, levels)
    filled = ax.contourf(
        cells.x, cells.y, losses.T, levels=bounds, norm=colour_norm(cells), cmap=COLORMAP,
        extend=scale.extend([surface]),
    )  # fmt: skip
    ax.contour(cells.x, cells.y, losses.T, levels=bounds, colors="white", linewidths=0.5, alpha=0.5)
    _mark_centre(ax, surface.x, surface.y)
    if trajectory is not None:
        _draw_trajectory(ax, trajectory)
    if colorbar:
        bar = ax.figure.colorbar(filled, ax=ax, label=cells.label)
        name_ticks(bar.ax.yaxis, bounds, log=log)
    ax.set(xlabel=picture.x.label, ylabel=picture.y.label)
    ax.locator_params(nbins=5)
    if 0.5 < np.ptp(surface.x) / np.ptp(surface.y) < 2:
        ax.set_aspect("equal")
    titled(ax, picture.title, picture.note)
    return ax


def _mark_centre(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if x.min() <= 0 <= x.max() and y.min() <= 0 <= y.max():
        ax.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.5, linestyle="none")


def _draw_trajectory(ax: Axes, trajectory: Trajectory) -> None:
    x, y = trajectory.coordinates.T
    ax.plot(x, y, color="white", linewidth=2.5)
    ax.plot(x, y, color="black", linewidth=1, marker="o", markersize=3.5, markeredgecolor="white", markeredgewidth=0.6)
    ax.plot(x[-1], y[-1], marker="*", color="black", markeredgecolor="white", markersize=12, linestyle="none")
