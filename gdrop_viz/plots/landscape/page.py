"""On which axes, in which ink and line styles are surfaces drawn?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.checks import instance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gdrop_viz.landscape.surface import Surface

_STYLES = ("-", "--", "-.", ":")


def axes_or_new(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6, 4.6), layout="constrained")
    return ax


def subplots(rows: int, columns: int, size: tuple[float, float], *, three_d: bool) -> tuple[Figure, np.ndarray]:
    import matplotlib.pyplot as plt

    # a 3-D grid in the page's own ink would outshine the sheet
    with plt.rc_context({"grid.color": "#8080804d", "grid.linewidth": 0.6} if three_d else {}):
        return plt.subplots(
            rows,
            columns,
            figsize=size,
            squeeze=False,
            layout="constrained",
            subplot_kw={"projection": "3d"} if three_d else {},
        )


def ink() -> Any:
    """The colour of the page's own lines: dark on white, light on a dark background."""
    import matplotlib as mpl

    return mpl.rcParams["axes.edgecolor"]


def looks(n: int) -> list[tuple[Any, str]]:
    import seaborn as sns

    colors = sns.color_palette("colorblind", max(n, 1))
    return [(colors[i], _STYLES[i % len(_STYLES)]) for i in range(n)]


def named_surfaces(surfaces: Surface | Mapping[str, Surface]) -> dict[str, Surface]:
    from gdrop_viz.landscape.surface import Surface

    named = dict(surfaces) if isinstance(surfaces, Mapping) else {"": surfaces}
    for one in named.values():
        instance(one, Surface, "surface", "loss_surface")
    if not named:
        raise ValueError("expected at least one surface to draw, got none")
    return named
