"""Panels of several surfaces on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.checks import one_of
from gdrop_viz.plots.landscape.axes import subplots
from gdrop_viz.plots.landscape.contour import surface_contour
from gdrop_viz.plots.landscape.curves import surface_radial, surface_section
from gdrop_viz.plots.landscape.labels import axis_label, loss_label
from gdrop_viz.plots.landscape.picture import surface_picture
from gdrop_viz.plots.landscape.relief import surface_3d
from gdrop_viz.plots.landscape.scale import LossScale, name_ticks
from gdrop_viz.plots.render import COLORMAP, colour_norm, levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gdrop_viz.landscape.surface import Surface

_KINDS = ("contour", "3d", "section", "radial")


def compare_surfaces(
    surfaces: Mapping[str, Surface],
    *,
    kind: str = "contour",
    log: bool = False,
    clip: float | None = None,
    columns: int = 3,
    size: float = 3.6,
) -> Figure:
    """Draw several surfaces side by side with ONE colour scale and z range; the names become the panels' titles.

    Parameters
    ----------
    surfaces
        Name -> surface.
    kind
        "contour", "3d", "section" or "radial" (the last two put all curves into one panel).
    log, clip
        As in `surface_contour`.
    columns, size
        Panels in a row, and the width of each in inches.

    Returns
    -------
    Figure
    """
    import matplotlib.pyplot as plt

    one_of(kind, _KINDS, "kind")
    if not isinstance(surfaces, Mapping) or not surfaces:
        raise ValueError(f"expected name -> Surface with at least one surface, got {type(surfaces).__name__}")
    if kind in ("section", "radial") or any(surface.y is None for surface in surfaces.values()):
        figure, ax = plt.subplots(figsize=(1.9 * size, 1.2 * size), layout="constrained")
        (surface_radial if kind == "radial" else surface_section)(surfaces, ax=ax, log=log)
        return figure
    scale = LossScale.of(list(surfaces.values()), log=log, clip=clip)
    columns = min(columns, len(surfaces))
    rows = -(-len(surfaces) // columns)
    size = 1.15 * size if kind == "3d" else size
    figure, grid = subplots(rows, columns, (columns * size + 1.2, rows * size * 1.15), three_d=kind == "3d")
    draw: Any = surface_3d if kind == "3d" else surface_contour
    for ax, (name, surface) in zip(grid.flat, surfaces.items()):  # noqa: B905 (the last panels may stay empty)
        draw(surface, ax=ax, log=log, clip=clip, limits=(scale.low, scale.high), colorbar=False, title=name)
    if kind == "contour" and len({axis_label(surface, 1) for surface in surfaces.values()}) == 1:
        for ax in grid[:, 1:].flat:
            ax.set_ylabel("")  # the first column says it for all
    for ax in grid.flat[len(surfaces) :]:
        ax.set_visible(False)
    from matplotlib.cm import ScalarMappable

    cells = surface_picture(next(iter(surfaces.values())), scale).cells
    assert cells is not None  # of a surface
    bar = figure.colorbar(
        ScalarMappable(colour_norm(cells), COLORMAP),
        ax=list(grid.flat),
        label=loss_label(surfaces.values()),
        shrink=0.8,
        pad=0.06 if kind == "3d" else 0.02,
        extend=scale.extend(surfaces.values()),
    )
    name_ticks(bar.ax.yaxis, levels(cells, 8), log=log)
    return figure
