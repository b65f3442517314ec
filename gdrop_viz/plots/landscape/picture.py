"""Picture of a 2-D surface, from which contours, sheets and panels are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.labels import axis_label, facts, loss_label, surface_summary
from gdrop_viz.plots.landscape.scale import LossScale, filled_in
from gdrop_viz.plots.picture import Axis, Cells, Picture, Series

if TYPE_CHECKING:
    from gdrop_viz.landscape.surface import Surface


def surface_picture(
    surface: Surface, scale: LossScale, *, title: str | None = None, notes: Sequence[str] = ()
) -> Picture:
    """Picture of `surface` in the colours of `scale`; points not known yet are filled in, others stay blank."""
    if surface.y is None:
        raise ValueError("expected a 2-D surface, got a 1-D one; draw it with surface_section")
    return Picture(
        title=surface.label if title is None else title,
        summary=surface_summary(surface, scale),
        x=Axis(axis_label(surface, 0), _around_cells(surface.x)),
        y=Axis(axis_label(surface, 1), _around_cells(surface.y)),
        cells=Cells(
            surface.x, surface.y, filled_in(surface), loss_label([surface]), (scale.low, scale.high), log=scale.log
        ),
        note="; ".join([*facts(surface, scale), *notes]),
    )


def missing_picture(title: str, radius: float) -> Picture:
    """The frame of a surface that is not computed yet."""
    x, y = (Axis(f"multiples of direction {axis}", (-radius, radius)) for axis in "xy")
    return Picture(title, "Not computed yet: press Run.", x, y)


def cuts_picture(
    surfaces: Mapping[str, Surface], scale: LossScale | None, cell: Sequence[int], radius: float
) -> Picture:
    """Picture of the loss along both axes through the grid point `cell` (i, j) of each surface, or the centre."""
    series, place = [], "the centre"
    for k, (name, surface) in enumerate(surfaces.items()):
        assert surface.y is not None  # panels show planes
        centre = int(np.abs(surface.x).argmin()), int(np.abs(surface.y).argmin())
        i, j = (min(at, size - 1) for at, size in zip(cell or centre, surface.loss.shape, strict=True))
        place = f"x = {surface.x[i]:.3g}, y = {surface.y[j]:.3g}"
        losses = filled_in(surface)
        series.append(Series(f"{name}, along x", surface.x, losses[:, j], style=k, marker=False))
        series.append(Series(f"{name}, along y", surface.y, losses[i], style=k + 4, marker=False))
    low, high, log = (scale.low, scale.high, scale.log) if scale is not None else (0.0, 1.0, False)
    return Picture(
        title=f"Cross-sections through {place}",
        summary="Move over a surface, or focus it and use the arrow keys, to cut elsewhere.",
        x=Axis("multiples of the direction", (-radius, radius)),
        y=Axis(loss_label(surfaces.values()), (low, high), log=log),
        series=tuple(series),
    )


def _around_cells(centres: np.ndarray) -> tuple[float, float]:
    """The outer borders of cells with these centres."""
    if len(centres) == 1:
        return float(centres[0]) - 0.5, float(centres[0]) + 0.5
    first, last = (centres[1] - centres[0]) / 2, (centres[-1] - centres[-2]) / 2
    return float(centres[0] - first), float(centres[-1] + last)
