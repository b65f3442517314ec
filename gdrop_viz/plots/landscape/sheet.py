"""What does a surface look like as a sheet in space?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.page import named_surfaces, subplots
from gdrop_viz.plots.landscape.scale import COLORMAP, LossScale, filled_in, plain_ticks
from gdrop_viz.plots.landscape.words import loss_label, put_title, short_axis_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.landscape.surface import Surface


def surface_3d(
    surface: Surface,
    *,
    ax: Axes | None = None,
    log: bool = False,
    clip: float | None = None,
    limits: tuple[float, float] | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw a 2-D surface as a sheet over the plane, with its contours on the floor; arguments as in `surface_contour`.

    `ax`, if given, must be a 3-D axes (`subplot_kw={"projection": "3d"}`). Raises ValueError for a 1-D surface.
    """
    named_surfaces(surface)
    if surface.y is None:
        raise ValueError("expected a 2-D surface, got a 1-D one; draw it with surface_section")
    if ax is None:
        _, grid = subplots(1, 1, (7, 5.5), three_d=True)
        ax = grid[0, 0]
    elif ax.name != "3d":
        raise ValueError('expected a 3-D axes, got a flat one; make it with subplot_kw={"projection": "3d"}')
    scale = LossScale.of([surface], log=log, clip=clip, limits=limits)
    losses = scale.clipped(filled_in(surface))
    height = np.log10(losses) if log else losses
    low, high = (np.log10(bound) if log else bound for bound in (scale.low, scale.high))
    x, y = np.meshgrid(surface.x, surface.y, indexing="ij")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    colors = colormaps[COLORMAP](scale.norm(np.nan_to_num(losses, nan=scale.high)))
    ax.plot_surface(
        x, y, height, facecolors=colors, rstride=1, cstride=1, linewidth=0.2, edgecolor=(1, 1, 1, 0.25), shade=False
    )
    floor = low - 0.35 * (high - low)
    bounds = np.log10(scale.levels(10)) if log else scale.levels(10)
    ax.contour(x, y, height, levels=bounds, zdir="z", offset=floor, cmap=COLORMAP, linewidths=1)
    ax.set_zlim(floor, high)
    ax.set_box_aspect(None, zoom=0.85)  # or the labels are cut off
    ax.locator_params(nbins=5)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1, 1, 1, 0))  # else grey walls on a dark page
    ticks = [tick for tick in scale.levels(5) if scale.low <= tick <= scale.high]
    ax.set_zticks(np.log10(ticks) if log else ticks, [f"{tick:.3g}" for tick in ticks])
    ax.set_xlabel(short_axis_label(surface, 0), labelpad=8)
    ax.set_ylabel(short_axis_label(surface, 1), labelpad=10)  # clear of its tick labels
    ax.view_init(elev=28, azim=-55)
    if colorbar:
        bar = ax.figure.colorbar(
            ScalarMappable(scale.norm, COLORMAP),
            ax=ax,
            label=loss_label([surface]),
            shrink=0.65,
            pad=0.12,
            extend=scale.extend([surface]),
        )
        plain_ticks(bar.ax.yaxis, scale, scale.levels(6))
    put_title(ax, surface, scale, title)
    return ax
