"""Matplotlib renderer of pictures, in seaborn's colours; also what a saved notebook shows in place of a panel."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.plots.picture import Axis, Cells, Picture, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORMAP = "viridis"
# the hues, dashes and markers of chart.css and chart.js, in the same order; hues: places in seaborn's "colorblind"
_HUES = (0, 3, 2, 4, 5, 9, 7, 1)
_DASHES = ("-", "--", ":", "-.", (0, (10, 4)), (0, (4, 2, 1, 2, 1, 2)), (0, (1, 1)), (0, (6, 6)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def look(style: int) -> tuple[Any, Any, str]:
    """Hue, dash and marker of a style."""
    import seaborn as sns

    k = style % len(_HUES)
    # beyond the last hue the markers are shifted, so that style and style + 8 differ
    return sns.color_palette("colorblind")[_HUES[k]], _DASHES[k], _MARKERS[(style + style // 8) % len(_MARKERS)]


def new_axes(size: tuple[float, float] = (6.4, 3.8)) -> Axes:
    """Axes of their own on a new figure."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def draw(
    picture: Picture,
    ax: Axes | None = None,
    *,
    size: tuple[float, float] = (6.4, 3.8),
    legend: bool = True,
    beside: bool = False,
) -> Axes:
    """Draw `picture` on `ax`, or on new axes of that size; `beside` puts the legend to the right of the axes."""
    ax = new_axes(size) if ax is None else ax
    draw_plane(ax, picture)
    if legend:
        draw_legend(ax, beside=beside)
    titled(ax, picture.title, picture.note)
    return ax


def draw_plane(ax: Axes, picture: Picture) -> None:
    """Draw everything of `picture` but its words."""
    for k, reference in enumerate(picture.references):
        line = ax.axvline if reference.axis == "x" else ax.axhline
        label = _plain(reference.label) or "_reference"
        line(reference.at, color="0.5", linewidth=0.8, linestyle=_DASHES[k % len(_DASHES)], zorder=0, label=label)
    for series in picture.series:
        _draw_series(ax, series)
    if picture.cells is not None:
        _draw_cells(ax, picture.cells, ruled=picture.x.ticks is not None)
    for which, axis in (("x", picture.x), ("y", picture.y)):
        _set_axis(ax, which, axis)


def draw_legend(ax: Axes, *, beside: bool = False, panels: Sequence[Axes] = ()) -> None:
    """Name the series of `ax`, or each style of all `panels` once; nothing where no series has a name."""
    named: dict[str, Any] = {}
    for panel in panels or (ax,):
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    where: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if beside else {}
    if named:
        ax.legend(list(named.values()), list(named), frameon=False, fontsize="small", **where)


def draw_relief(ax: Any, cells: Cells, *, floor: float) -> None:
    """Draw `cells` as a sheet over the plane; `floor` is the room below it, as a share of its height."""
    from matplotlib import colormaps

    x, y = np.meshgrid(np.asarray(cells.x, dtype=float), np.asarray(cells.y, dtype=float), indexing="ij")
    values = np.clip(np.asarray(cells.values, dtype=float), *cells.bounds)
    colors = colormaps[COLORMAP](colour_norm(cells)(np.nan_to_num(values, nan=cells.bounds[1])))
    # mplot3d has no logarithmic axis that clips: the heights are logarithms, the ticks name the values
    height = np.log10 if cells.log else np.asarray
    low, high = (float(height(bound)) for bound in cells.bounds)
    ax.plot_surface(
        x, y, height(values), facecolors=colors, rstride=1, cstride=1, linewidth=0.2, edgecolor=(1, 1, 1, 0.25),
        shade=False,
    )  # fmt: skip
    ax.set_zlim(low - floor * (high - low), high)
    ax.set_box_aspect(None, zoom=0.85)  # or the labels are cut off
    ax.locator_params(nbins=5)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1, 1, 1, 0))  # else grey walls on a dark ground
    ticks = [tick for tick in levels(cells, 5) if cells.bounds[0] <= tick <= cells.bounds[1]]
    ax.set_zticks(height(ticks), [f"{tick:.3g}" for tick in ticks])


def colour_norm(cells: Cells) -> Any:
    """The scale of the colours: linear or logarithmic between the bounds."""
    from matplotlib.colors import LogNorm, Normalize

    return (LogNorm if cells.log else Normalize)(*cells.bounds)


def levels(cells: Cells, n: int) -> np.ndarray:
    """Bounds of about `n` bands that cover the scale: round numbers, or equal ratios on a logarithmic one."""
    if cells.log:
        return np.geomspace(*cells.bounds, n + 1)
    from matplotlib.ticker import MaxNLocator

    return np.asarray(MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]).tick_values(*cells.bounds))


def titled(ax: Axes, title: str, note: str) -> None:
    """A title with a smaller line of facts beneath it, both broken to the width of a panel."""
    lines = "\n".join(textwrap.wrap(_plain(note), 48))
    lift = -24 if ax.name == "3d" else 5  # above a sheet there is room inside the axes
    # the note sits in the title's padding: so the layout knows of both
    ax.annotate(
        lines, (0.5, 1), (0, lift), xycoords="axes fraction", textcoords="offset points", ha="center", fontsize="small"
    )
    pad = 12 * (lines.count("\n") + 1) + 3 + lift if lines else 6
    ax.set_title("\n".join(textwrap.wrap(_plain(title), 40)), pad=pad)


def figure(pictures: Sequence[Picture], *, relief: Sequence[bool] = ()) -> Figure:
    """Draw each picture with its summary, two to a row, on a matplotlib figure that no pyplot window knows of."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(2, len(pictures))
    rows = -(-len(pictures) // columns)
    with mpl.rc_context({"font.size": 8, "axes.titlesize": 8}):
        result = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained", facecolor="white")
        for k, picture in enumerate(pictures):
            in_3d = bool(relief and relief[k] and picture.cells)
            ax: Any = result.add_subplot(rows, columns, k + 1, projection="3d" if in_3d else None)
            if in_3d and picture.cells is not None:
                draw_relief(ax, picture.cells, floor=0.0)
                ax.set(xlabel=_plain(picture.x.label), ylabel=_plain(picture.y.label))
                ax.set_zlabel(_plain(picture.cells.label))
            else:
                draw_plane(ax, picture)
                draw_legend(ax)
            # the sentence is part of the picture: exports to HTML keep only one form of an output
            words = [picture.title, *textwrap.wrap(picture.summary, 60 if in_3d else 76)]
            ax.set_title(_plain("\n".join(words)), loc="left")
    return result


def png(pictures: Sequence[Picture], *, relief: Sequence[bool] = ()) -> bytes:
    """The `figure` of these pictures as a PNG file."""
    buffer = io.BytesIO()
    figure(pictures, relief=relief).savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    return buffer.getvalue()


def _draw_series(ax: Axes, series: Series) -> None:
    hue, dash, marker = look(series.style)
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    label = _plain(series.label) if series.in_legend and series.label else "_unnamed"
    if series.fill:
        (ax.barh if series.horizontal else ax.bar)(
            *((y, x) if series.horizontal else (x, y)), 0.7, color=hue, label=label
        )
        return
    if series.faint and not series.line:
        ax.scatter(x, y, s=9, color=hue, alpha=0.4, linewidths=0, zorder=1)
        return
    looks: dict[str, Any] = {
        "color": hue, "linestyle": dash if series.line else "none", "marker": marker if series.marker else None,
        "markersize": 4 if series.line else 6, "label": label, "gid": series.label,
    }  # fmt: skip
    if series.faint:
        looks |= {"linewidth": 0.8, "alpha": 0.7, "linestyle": "-"}
    if series.low is None or series.high is None:
        ax.plot(x, y, **looks)
        return
    low, high = np.asarray(series.low, dtype=float), np.asarray(series.high, dtype=float)
    if series.bars or not series.line:
        middle = x if series.horizontal else y
        # an unknown interval (one seed) draws the point alone
        ends = [np.maximum(middle - low, 0), np.maximum(high - middle, 0)]
        looks["xerr" if series.horizontal else "yerr"] = ends
        ax.errorbar(x, y, capsize=3, **looks)
    else:
        ax.fill_between(x, low, high, color=hue, alpha=0.22, linewidth=0)
        ax.plot(x, y, **looks)


def _draw_cells(ax: Axes, cells: Cells, *, ruled: bool) -> None:
    mesh = ax.pcolormesh(
        np.asarray(cells.x, dtype=float),
        np.asarray(cells.y, dtype=float),
        np.asarray(cells.values, dtype=float).T,
        cmap=COLORMAP,
        norm=colour_norm(cells),
        shading="nearest",
        edgecolors=ax.figure.get_facecolor() if ruled else "none",
        linewidth=0.5 if ruled else 0.0,
    )
    ax.figure.colorbar(mesh, ax=ax, label=_plain(cells.label))


def _set_axis(ax: Axes, which: str, axis: Axis) -> None:
    if axis.log:
        scale = {} if axis.linear_below is None else {"linthresh": axis.linear_below}
        getattr(ax, f"set_{which}scale")("symlog" if scale else "log", **scale)
    ax.set(**{f"{which}lim": axis.bounds, f"{which}label": _plain(axis.label)})
    if axis.ticks is None:
        return
    names = [_plain(name) for _, name in axis.ticks]
    getattr(ax, f"set_{which}ticks")([position for position, _ in axis.ticks], names)
    width = ax.get_position().width * ax.figure.bbox.width / ax.figure.dpi  # inches, of a part of a figure too
    if which == "x" and sum(len(name) + 2 for name in names) > 12 * width:  # they would run into one another
        for text in ax.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")


def _plain(text: str) -> str:
    """`text` as it stands: matplotlib would read a dollar as mathematics."""
    return text.replace("$", r"\$")
