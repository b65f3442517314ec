"""Figures and arguments that the plots of surfaces share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import instance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gdrop_viz.landscape.surface import Surface


def subplots(rows: int, columns: int, size: tuple[float, float], *, three_d: bool) -> tuple[Figure, np.ndarray]:
    """A grid of axes, flat or in space."""
    import matplotlib.pyplot as plt

    # a 3-D grid in the figure's own colour of lines would outshine the sheet
    with plt.rc_context({"grid.color": "#8080804d", "grid.linewidth": 0.6} if three_d else {}):
        return plt.subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained",
            subplot_kw={"projection": "3d"} if three_d else {},
        )  # fmt: skip


def named_surfaces(surfaces: Surface | Mapping[str, Surface]) -> dict[str, Surface]:
    """Name -> surface, with an empty name for a single one; raises where something else or nothing is given."""
    from gdrop_viz.landscape.surface import Surface

    named = dict(surfaces) if isinstance(surfaces, Mapping) else {"": surfaces}
    for one in named.values():
        instance(one, Surface, "surface", "loss_surface")
    if not named:
        raise ValueError("expected at least one surface to draw, got none")
    return named
