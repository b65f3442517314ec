"""What does a reader see where no widget can run: on GitHub, nbviewer, in print? The same picture, drawn once."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.widgets.picture import Axis, Picture, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gdrop_viz.widgets.chart import Chart

# the hues, dashes and markers of chart.css and chart.js, in the same order
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5a5a5a", "#e69f00")
DASHES = ("-", "--", ":", "-.", (0, (10, 4)), (0, (4, 2, 1, 2, 1, 2)), (0, (1, 1)), (0, (6, 6)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def figure(pictures: Sequence[Picture], *, relief: Sequence[bool] | None = None) -> Figure:
    """Draw each picture in its own axes, two to a row, on a matplotlib figure that no pyplot window knows of."""
    from matplotlib.figure import Figure

    columns = min(2, len(pictures))
    rows = -(-len(pictures) // columns)
    result = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained", facecolor="white")
    for k, picture in enumerate(pictures):
        in_3d = bool(relief and relief[k] and picture.cells)
        axes = result.add_subplot(rows, columns, k + 1, projection="3d" if in_3d else None)
        (_draw_relief if in_3d else _draw_plane)(axes, picture)
        # the sentence is part of the picture: exports to HTML keep only one form of an output
        axes.set_title(
            _plain("\n".join([picture.title, *textwrap.wrap(picture.summary, 60 if in_3d else 76)])),
            fontsize=8,
            loc="left",
        )
    return result


def with_static_picture(bundle: Any, charts: Sequence[Chart]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add a PNG of the charts and their summaries as text to the mime bundle of a widget."""
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
    text = " ".join(chart.picture.summary for chart in charts)
    drawn = figure([chart.picture for chart in charts], relief=[chart.relief for chart in charts])
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    data = {**data, "image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": text}
    return data, {**metadata, "image/png": {"alt": text, "needs_background": "light"}}


def _draw_plane(axes: Axes, picture: Picture) -> None:
    for series in picture.series:
        _draw_series(axes, series)
    if picture.cells is not None:
        cells = picture.cells
        mesh = axes.pcolormesh(
            np.asarray(cells.x, dtype=float),
            np.asarray(cells.y, dtype=float),
            np.asarray(cells.values, dtype=float).T,
            cmap="viridis",
            norm="log" if cells.log else "linear",
            shading="nearest",
        )
        mesh.set_clim(*cells.bounds)
        axes.figure.colorbar(mesh, ax=axes, label=_plain(cells.label))
    for which, axis in (("x", picture.x), ("y", picture.y)):
        _set_axis(axes, which, axis)
    if len(picture.series) > 1 or (picture.series and picture.cells is None):
        axes.legend(fontsize=7, frameon=False)


def _draw_series(axes: Axes, series: Series) -> None:
    k = series.style % len(COLOURS)
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    if series.low is not None and series.high is not None:
        low, high = np.asarray(series.low, dtype=float), np.asarray(series.high, dtype=float)
        if series.line:
            axes.fill_between(x, low, high, color=COLOURS[k], alpha=0.18, linewidth=0)
        else:
            axes.vlines(x, low, high, color=COLOURS[k])
    axes.plot(
        x,
        y,
        color=COLOURS[k],
        linestyle=DASHES[k] if series.line else "none",
        marker=MARKERS[k] if series.marker else None,
        markersize=4,
        linewidth=1.5,
        label=_plain(series.label) if series.in_legend else "_nolegend_",
    )


def _draw_relief(axes: Any, picture: Picture) -> None:
    cells = picture.cells
    x, y = np.meshgrid(np.asarray(cells.x, dtype=float), np.asarray(cells.y, dtype=float), indexing="ij")
    values = np.clip(np.asarray(cells.values, dtype=float), *cells.bounds)
    if cells.log:
        # mplot3d has no logarithmic axis that clips; the label says what the height is
        values, bounds = np.log10(values), np.log10(cells.bounds)
    else:
        bounds = cells.bounds
    axes.plot_surface(x, y, values, cmap="viridis", vmin=bounds[0], vmax=bounds[1], rstride=1, cstride=1)
    axes.set(zlim=bounds)
    axes.set_xlabel(_plain(picture.x.label), fontsize=8)
    axes.set_ylabel(_plain(picture.y.label), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_box_aspect(None, zoom=0.8)  # the labels of mplot3d are not part of the layout
    axes.set_zlabel(_plain(f"log10 {cells.label}" if cells.log else cells.label), fontsize=8)


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    if axis.log:
        axes.set(**{f"{which}scale": "log"})
    axes.set(**{f"{which}lim": axis.bounds, f"{which}label": _plain(axis.label)})
    if axis.ticks is not None:
        axes.set(**{f"{which}ticks": [position for position, _ in axis.ticks]})
        axes.set(**{f"{which}ticklabels": [_plain(text) for _, text in axis.ticks]})
    axes.tick_params(labelsize=8)


def _plain(text: str) -> str:
    """`text` as it stands: matplotlib would read a dollar as mathematics."""
    return text.replace("$", r"\$")
