"""Plots of the loss along a line, and against the distance from the trained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.axes import named_surfaces
from gdrop_viz.plots.landscape.labels import axis_label, loss_label, text_of
from gdrop_viz.plots.picture import Axis, Picture, Reference, Series
from gdrop_viz.plots.render import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.landscape.surface import Surface

_SIZE = (6.0, 4.6)
_MAX_MARKERS = 31
_LINEAR_BELOW = 0.01  # a rise may be negative: its logarithmic scale is linear around zero


def surface_section(
    surfaces: Surface | Mapping[str, Surface],
    *,
    axis: str = "x",
    at: float = 0.0,
    rise: bool = False,
    ax: Axes | None = None,
    log: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the loss along a line: 1-D surfaces, or cuts through 2-D ones, with a band of ± 1 standard error.

    Parameters
    ----------
    surfaces
        One surface, or name -> surface.
    axis, at
        Which way the cut runs, and where on the other axis.
    rise
        Draw the loss above the centre's; the band is then that of the paired difference, sequence by sequence, which
        is what tells two curves apart.
    ax
        Axes to draw on; by default new ones.
    log
        Logarithmic scale of the loss.
    title
        By default the label of a single surface.

    Returns
    -------
    Axes
    """
    return draw(
        section_picture(named_surfaces(surfaces), axis=axis, at=at, rise=rise, log=log, title=title), ax, size=_SIZE
    )


def surface_radial(
    surfaces: Surface | Mapping[str, Surface],
    *,
    ax: Axes | None = None,
    rise: bool = False,
    log: bool = False,
    distance: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the mean loss over all angles against the distance from the trained weights; band: ± 1 sd over the angles.

    Parameters
    ----------
    surfaces
        One surface, or name -> surface.
    ax
        Axes to draw on; by default new ones.
    rise
        Above the innermost ring's loss.
    log
        Logarithmic scale of the loss.
    distance
        In Euclidean distance of the weights (radius times the mean norm of the directions) instead of multiples of
        the directions.
    title
        By default "Radial mean".

    Returns
    -------
    Axes
    """
    return draw(
        radial_picture(named_surfaces(surfaces), rise=rise, log=log, distance=distance, title=title), ax, size=_SIZE
    )


def section_picture(
    surfaces: Mapping[str, Surface],
    *,
    axis: str = "x",
    at: float = 0.0,
    rise: bool = False,
    log: bool = False,
    title: str | None = None,
) -> Picture:
    """Picture of `surface_section`."""
    lines = {name: surface.cross_section(axis, at) for name, surface in surfaces.items()}
    series = []
    for k, (name, line) in enumerate(lines.items()):
        losses, error = line.rise() if rise else (line.loss, line.standard_error)
        error = np.zeros_like(losses) if error is None else error
        known = line.evaluated & np.isfinite(losses)
        series.append(_banded(name or line.label, line.x[known], losses[known], error[known], k, named=len(lines) > 1))
    first = next(iter(lines.values()))
    along = {axis_label(line, 0) for line in lines.values()}
    cut = first.metadata.get("cut")
    where = f"; cut at {cut['axis']} = {cut['at']:g}" if cut else ""
    return Picture(
        title=title if title is not None else (first.label if len(lines) == 1 else ""),
        summary=_rises(series),
        x=Axis.around(along.pop() if len(along) == 1 else "multiples of each surface's direction", _all_x(series)),
        y=_loss_axis(surfaces, series, rise=rise, log=log),
        series=tuple(series),
        references=(Reference("x", 0.0),),
        note=f"band: ± 1 standard error over {text_of(first)}{where}",
    )


def radial_picture(
    surfaces: Mapping[str, Surface],
    *,
    rise: bool = False,
    log: bool = False,
    distance: bool = False,
    title: str | None = None,
) -> Picture:
    """Picture of `surface_radial`."""
    series = []
    for k, (name, surface) in enumerate(surfaces.items()):
        profile = surface.radial()
        radius, loss = profile["radius"].to_numpy(), profile["loss"].to_numpy()
        if distance:
            norms = [direction["norm"] for direction in surface.metadata.get("directions", [])]
            if not norms:
                raise ValueError("expected surfaces with their directions' norms, got one without; use distance=False")
            radius = radius * np.mean(norms)
        spread = profile["standard_deviation"].to_numpy()
        loss = loss - loss[0] if rise else loss
        series.append(_banded(name or surface.label, radius, loss, spread, k, named=len(surfaces) > 1))
    first = next(iter(surfaces.values()))
    return Picture(
        title=title if title is not None else "Radial mean",
        summary=_rises(series),
        x=Axis.around(
            "distance from the trained weights" if distance else "radius (multiples of the directions)", _all_x(series)
        ),
        y=_loss_axis(surfaces, series, rise=rise, log=log),
        series=tuple(series),
        note=f"band: ± 1 sd over angles; mean of {text_of(first)}",
    )


def _banded(label: str, x: np.ndarray, y: np.ndarray, half: np.ndarray, style: int, *, named: bool) -> Series:
    half = np.nan_to_num(half)
    return Series(label, x, y, y - half, y + half, style=style, marker=len(x) <= _MAX_MARKERS, in_legend=named)


def _all_x(series: Sequence[Series]) -> list[float]:
    return [float(x) for one in series for x in one.x]


def _loss_axis(surfaces: Mapping[str, Surface], series: Sequence[Series], *, rise: bool, log: bool) -> Axis:
    label = ("rise of the " if rise else "") + loss_label(surfaces.values())
    values = [float(v) for one in series for part in (one.low, one.high) if part is not None for v in part]
    return Axis.around(label, values, log=log, **({"linear_below": _LINEAR_BELOW} if log and rise else {}))


def _rises(series: Sequence[Series]) -> str:
    """Lowest and highest value of each curve, in words."""
    known = [one for one in series if len(one.y)]
    found = [f"{one.label or 'the loss'} runs from {np.min(one.y):.4g} to {np.max(one.y):.4g}" for one in known]
    return "; ".join(found) + "." if found else "No point is known yet."
