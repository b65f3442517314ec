"""Three-dimensional plot of a 2-D surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.plots.landscape.axes import named_surfaces, subplots
from gdrop_viz.plots.landscape.labels import short_axis_label
from gdrop_viz.plots.landscape.picture import surface_picture
from gdrop_viz.plots.landscape.scale import LossScale, name_ticks
from gdrop_viz.plots.render import COLORMAP, colour_norm, draw_relief, levels, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.landscape.surface import Surface

_FLOOR = 0.35  # room for the contours below the sheet, as a share of its height


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

    Returns
    -------
    Axes
        3-D ones; so must be `ax`, if given (`subplot_kw={"projection": "3d"}`).

    Raises
    ------
    ValueError
        For a 1-D surface, or a flat `ax`.
    """
    named_surfaces(surface)
    scale = LossScale.of([surface], log=log, clip=clip, limits=limits)
    picture = surface_picture(surface, scale, title=title)
    cells = picture.cells
    assert cells is not None  # of a surface
    if ax is None:
        _, grid = subplots(1, 1, (7, 5.5), three_d=True)
        ax = grid[0, 0]
    elif ax.name != "3d":
        raise ValueError('expected a 3-D axes, got a flat one; make it with subplot_kw={"projection": "3d"}')
    sheet: Any = ax
    draw_relief(sheet, cells, floor=_FLOOR)
    height = np.log10 if log else np.asarray
    x, y = np.meshgrid(np.asarray(cells.x), np.asarray(cells.y), indexing="ij")
    sheet.contour(
        x, y, height(np.clip(cells.values, *cells.bounds)), levels=height(levels(cells, 10)), zdir="z",
        offset=sheet.get_zlim()[0], cmap=COLORMAP, linewidths=1,
    )  # fmt: skip
    sheet.set_zlim(sheet.get_zlim()[0], height(scale.high))
    sheet.set_xlabel(short_axis_label(surface, 0), labelpad=8)
    sheet.set_ylabel(short_axis_label(surface, 1), labelpad=10)  # clear of its tick labels
    sheet.view_init(elev=28, azim=-55)
    if colorbar:
        from matplotlib.cm import ScalarMappable

        bar = sheet.figure.colorbar(
            ScalarMappable(colour_norm(cells), COLORMAP),
            ax=sheet,
            label=cells.label,
            shrink=0.65,
            pad=0.12,
            extend=scale.extend([surface]),
        )
        name_ticks(bar.ax.yaxis, levels(cells, 6), log=log)
    titled(ax, picture.title, picture.note)
    return ax
