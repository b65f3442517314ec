"""What do loss surfaces look like? Contours, 3-D sheets, cuts and radial means on one scale; spectra of the Hessian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from gdrop_viz.landscape.density import SpectralDensity
    from gdrop_viz.landscape.paths import Trajectory
    from gdrop_viz.landscape.surface import Surface

_STYLES = ("-", "--", "-.", ":")
_COLORMAP = "viridis"
_LOSS = "loss (nats per predicted token)"


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
    log
        Colours and levels on a logarithmic scale of the loss.
    clip
        Draw everything above this loss in the last colour; the title says how many points that are.
    limits
        Lowest and highest loss of the colour scale (to share it with other pictures); default: the surface's own.
    trajectory
        Draw this path (`project_trajectory`) over the surface.

    A surface that is not complete yet is interpolated between its known points, and says so; points whose loss is
    not finite are left blank and counted. A 1-D surface is drawn as a line.
    """
    if surface.y is None:
        return surface_section(surface, ax=ax, log=log, title=title)
    ax = _axes(ax)
    scale = _Scale.of([surface], log=log, clip=clip, limits=limits)
    losses = scale.clipped(_filled(surface))
    bounds = scale.levels(levels)
    filled = ax.contourf(
        surface.x, surface.y, losses.T, levels=bounds, norm=scale.norm, cmap=_COLORMAP, extend=scale.extend([surface])
    )
    ax.contour(surface.x, surface.y, losses.T, levels=bounds, colors="white", linewidths=0.5, alpha=0.5)
    _mark_centre(ax, surface)
    if trajectory is not None:
        _draw_trajectory(ax, trajectory)
    if colorbar:
        bar = ax.figure.colorbar(filled, ax=ax, label=_LOSS)
        _plain_ticks(bar.ax.yaxis, scale, bounds)
    ax.set(xlabel=_axis_label(surface, 0), ylabel=_axis_label(surface, 1))
    ax.locator_params(nbins=5)
    if _same_span(surface):
        ax.set_aspect("equal")
    _put_title(ax, surface, scale, title, trajectory)
    return ax


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
    if surface.y is None:
        raise ValueError("expected a 2-D surface, got a 1-D one; draw it with surface_section")
    if ax is None:
        _, grid = _subplots(1, 1, (7, 5.5), three_d=True)
        ax = grid[0, 0]
    elif ax.name != "3d":
        raise ValueError('expected a 3-D axes, got a flat one; make it with subplot_kw={"projection": "3d"}')
    scale = _Scale.of([surface], log=log, clip=clip, limits=limits)
    losses = scale.clipped(_filled(surface))
    height = np.log10(losses) if log else losses
    low, high = (np.log10(bound) if log else bound for bound in (scale.low, scale.high))
    x, y = np.meshgrid(surface.x, surface.y, indexing="ij")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    colors = colormaps[_COLORMAP](scale.norm(np.nan_to_num(losses, nan=scale.high)))
    ax.plot_surface(
        x, y, height, facecolors=colors, rstride=1, cstride=1, linewidth=0.2, edgecolor=(1, 1, 1, 0.25), shade=False
    )
    floor = low - 0.35 * (high - low)
    bounds = np.log10(scale.levels(10)) if log else scale.levels(10)
    ax.contour(x, y, height, levels=bounds, zdir="z", offset=floor, cmap=_COLORMAP, linewidths=1)
    ax.set_zlim(floor, high)
    ax.set_box_aspect(None, zoom=0.85)  # or the labels are cut off
    ax.locator_params(nbins=5)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1, 1, 1, 0))  # else grey walls on a dark page
    ticks = [tick for tick in scale.levels(5) if scale.low <= tick <= scale.high]
    ax.set_zticks(np.log10(ticks) if log else ticks, [f"{tick:.3g}" for tick in ticks])
    ax.set(xlabel=_short_axis_label(surface, 0), ylabel=_short_axis_label(surface, 1))
    ax.view_init(elev=28, azim=-55)
    if colorbar:
        bar = ax.figure.colorbar(
            ScalarMappable(scale.norm, _COLORMAP),
            ax=ax,
            label=_LOSS,
            shrink=0.65,
            pad=0.12,
            extend=scale.extend([surface]),
        )
        _plain_ticks(bar.ax.yaxis, scale, scale.levels(6))
    _put_title(ax, surface, scale, title)
    return ax


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

    rise: draw the loss above the centre's; the band is then that of the paired difference, sequence by sequence,
    which is what tells two curves apart. axis, at: which way the cut runs, and where on the other axis.
    """
    ax = _axes(ax)
    named = _named(surfaces)
    for (name, surface), (color, style) in zip(named.items(), _looks(len(named)), strict=True):
        line = surface.cross_section(axis, at)
        losses, error = line.rise() if rise else (line.loss, line.standard_error)
        known = line.evaluated & np.isfinite(losses)
        x, y, band = line.x[known], losses[known], np.nan_to_num(error[known])
        marker = "o" if len(x) <= 31 else None
        ax.plot(x, y, color=color, linestyle=style, marker=marker, markersize=3, label=name or line.label)
        ax.fill_between(x, y - band, y + band, color=color, alpha=0.25, linewidth=0)
    first = next(iter(named.values())).cross_section(axis, at)
    ax.axvline(0, color=_ink(), linewidth=0.6, alpha=0.5)
    if log:
        ax.set_yscale("symlog" if rise else "log")
    along = {_axis_label(surface.cross_section(axis, at), 0) for surface in named.values()}
    ax.set(
        xlabel=along.pop() if len(along) == 1 else "multiples of each surface's direction",
        ylabel="rise of the " + _LOSS if rise else _LOSS,
    )
    if len(named) > 1:
        ax.legend(frameon=False)
    cut = first.metadata.get("cut")
    where = f"; cut at {cut['axis']} = {cut['at']:g}" if cut else ""
    note = f"band: ± 1 standard error over {_text(first)}{where}"
    _titled(ax, title if title is not None else (first.label if len(named) == 1 else ""), note)
    return ax


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

    rise: above the innermost ring's loss. distance: in Euclidean distance of the weights (radius times the mean norm
    of the directions) instead of multiples of the directions.
    """
    ax = _axes(ax)
    named = _named(surfaces)
    for (name, surface), (color, style) in zip(named.items(), _looks(len(named)), strict=True):
        profile = surface.radial()
        radius, loss = profile["radius"].to_numpy(), profile["loss"].to_numpy()
        spread = profile["standard_deviation"].to_numpy()
        if distance:
            norms = [direction["norm"] for direction in surface.metadata.get("directions", [])]
            if not norms:
                raise ValueError("expected surfaces with their directions' norms, got one without; use distance=False")
            radius = radius * np.mean(norms)
        loss = loss - loss[0] if rise else loss
        ax.plot(radius, loss, color=color, linestyle=style, marker="o", markersize=3, label=name or surface.label)
        ax.fill_between(radius, loss - spread, loss + spread, color=color, alpha=0.2, linewidth=0)
    if log:
        ax.set_yscale("symlog" if rise else "log")
    ax.set(
        xlabel="distance from the trained weights" if distance else "radius (multiples of the directions)",
        ylabel="rise of the " + _LOSS if rise else _LOSS,
    )
    if len(named) > 1:
        ax.legend(frameon=False)
    first = next(iter(named.values()))
    _titled(ax, title if title is not None else "Radial mean", f"band: ± 1 sd over angles; mean of {_text(first)}")
    return ax


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

    kind: "contour", "3d", "section" or "radial" (the last two put all curves into one panel).
    """
    import matplotlib.pyplot as plt

    if kind not in ("contour", "3d", "section", "radial"):
        raise ValueError(f"expected kind='contour', '3d', 'section' or 'radial', got {kind!r}")
    if not isinstance(surfaces, Mapping) or not surfaces:
        raise ValueError(f"expected name -> Surface with at least one surface, got {type(surfaces).__name__}")
    if kind in ("section", "radial") or any(surface.y is None for surface in surfaces.values()):
        figure, ax = plt.subplots(figsize=(1.9 * size, 1.2 * size), layout="constrained")
        draw = surface_radial if kind == "radial" else surface_section
        draw(surfaces, ax=ax, log=log)
        return figure
    scale = _Scale.of(list(surfaces.values()), log=log, clip=clip)
    columns = min(columns, len(surfaces))
    rows = -(-len(surfaces) // columns)
    size = 1.15 * size if kind == "3d" else size
    figure, grid = _subplots(rows, columns, (columns * size + 1.2, rows * size * 1.15), three_d=kind == "3d")
    draw = surface_3d if kind == "3d" else surface_contour
    for ax, (name, surface) in zip(grid.flat, surfaces.items()):  # noqa: B905 (the last panels may stay empty)
        draw(surface, ax=ax, log=log, clip=clip, limits=(scale.low, scale.high), colorbar=False, title=name)
    for ax in grid.flat[len(surfaces) :]:
        ax.set_visible(False)
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(scale.norm, _COLORMAP),
        ax=list(grid.flat),
        label=_LOSS,
        shrink=0.8,
        pad=0.06 if kind == "3d" else 0.02,
        extend=scale.extend(list(surfaces.values())),
    )
    _plain_ticks(bar.ax.yaxis, scale, scale.levels(8))
    return figure


def spectral_density(density: SpectralDensity, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the density of the Hessian's eigenvalues on a logarithmic scale; band: lowest to highest of the probes."""
    ax = _axes(ax)
    frame = density.to_frame()
    (color, _), *_ = _looks(1)
    x = frame["eigenvalue"].to_numpy()
    ax.plot(x, frame["density"], color=color)
    ax.fill_between(x, frame["minimum"], frame["maximum"], color=color, alpha=0.25, linewidth=0)
    ax.set_yscale("log")
    # where the smoothing kernel has died away the curve says nothing
    ax.set_ylim(frame["density"].max() * 1e-8, frame["density"].max() * 3)
    ax.axvline(0, color=_ink(), linewidth=0.6, alpha=0.5)
    ax.set(xlabel="eigenvalue of the Hessian (nats)", ylabel="density")
    note = f"{density.n_probes} probes x {density.n_steps} Lanczos steps, smoothed by σ = {density.sigma:.3g}"
    _titled(ax, title if title is not None else f"Spectral density over {density.label}", note)
    return ax


@dataclass(frozen=True)
class _Scale:
    """One scale of the loss for all panels that are compared."""

    low: float
    high: float
    log: bool
    clip: float | None

    @classmethod
    def of(
        cls, surfaces: Sequence[Surface], *, log: bool, clip: float | None, limits: tuple[float, float] | None = None
    ) -> _Scale:
        finite = np.concatenate([s.loss[np.isfinite(s.loss)] for s in surfaces])
        if not len(finite):
            raise ValueError("expected at least one point with a finite loss, got none; nothing can be drawn")
        low, high = limits or (float(finite.min()), float(finite.max()))
        if clip is not None:
            if not clip > low:
                raise ValueError(f"expected clip above the lowest loss {low:.4g}, got {clip!r}")
            high = min(high, clip)
        if log and low <= 0:
            raise ValueError(f"expected losses above 0 for a logarithmic scale, got {low:.4g}; use log=False")
        return cls(low, high if high > low else low + 1e-6 * max(1.0, abs(low)), log, clip)

    @property
    def norm(self) -> Normalize:
        from matplotlib.colors import LogNorm, Normalize

        return (LogNorm if self.log else Normalize)(self.low, self.high)

    def levels(self, n: int) -> np.ndarray:
        """Bounds of about `n` bands that cover the scale: round numbers, or equal ratios on a logarithmic one."""
        if self.log:
            return np.geomspace(self.low, self.high, n + 1)
        from matplotlib.ticker import MaxNLocator

        return MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)

    def clipped(self, losses: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(losses), np.clip(losses, self.low, self.high), np.nan)

    def n_clipped(self, surface: Surface) -> int:
        return int((surface.loss > self.high * (1 + 1e-12)).sum() - np.isposinf(surface.loss).sum())

    def extend(self, surfaces: Sequence[Surface]) -> str:
        return "max" if any(self.n_clipped(surface) for surface in surfaces) else "neither"


def _filled(surface: Surface) -> np.ndarray:
    """The loss with what the known points suggest in place of those not known yet: linear between, nearest outside."""
    if surface.is_complete:
        return surface.loss
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    grid = np.stack(np.meshgrid(surface.x, surface.y, indexing="ij"), axis=-1)
    known, values = grid[surface.evaluated], surface.loss[surface.evaluated]
    guess = griddata(known, values, grid, method="nearest")
    try:
        between = griddata(known, values, grid, method="linear")
    except QhullError:  # too few points, or all on one line
        return guess
    return np.where(surface.evaluated, surface.loss, np.where(np.isfinite(between), between, guess))


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6, 4.6), layout="constrained")
    return ax


def _subplots(rows: int, columns: int, size: tuple[float, float], *, three_d: bool) -> tuple[Figure, np.ndarray]:
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


def _ink() -> Any:
    """The colour of the page's own lines: dark on white, light on a dark background."""
    import matplotlib as mpl

    return mpl.rcParams["axes.edgecolor"]


def _looks(n: int) -> list[tuple[Any, str]]:
    import seaborn as sns

    colors = sns.color_palette("colorblind", max(n, 1))
    return [(colors[i], _STYLES[i % len(_STYLES)]) for i in range(n)]


def _named(surfaces: Surface | Mapping[str, Surface]) -> dict[str, Surface]:
    named = dict(surfaces) if isinstance(surfaces, Mapping) else {"": surfaces}
    if not named:
        raise ValueError("expected at least one surface to draw, got none")
    return named


def _mark_centre(ax: Axes, surface: Surface) -> None:
    if surface.x.min() <= 0 <= surface.x.max() and surface.y.min() <= 0 <= surface.y.max():
        ax.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.5, linestyle="none")


def _draw_trajectory(ax: Axes, trajectory: Trajectory) -> None:
    x, y = trajectory.coordinates.T
    ax.plot(x, y, color="white", linewidth=2.5)
    ax.plot(x, y, color="black", linewidth=1, marker="o", markersize=3.5, markeredgecolor="white", markeredgewidth=0.6)
    ax.plot(x[-1], y[-1], marker="*", color="black", markeredgecolor="white", markersize=12, linestyle="none")


def _same_span(surface: Surface) -> bool:
    wide, tall = np.ptp(surface.x), np.ptp(surface.y)
    return bool(0.5 < wide / tall < 2)


def _axis_label(surface: Surface, axis: int) -> str:
    """What one unit of the axis is: a multiple of which direction, at which norm."""
    directions = surface.metadata.get("directions", [])
    if axis >= len(directions):
        return f"{'xy'[axis]} (multiples of the direction)"
    direction = directions[axis]
    kind = {"filter": ", filter-normalised", "tensor": ", tensor-normalised"}.get(direction.get("normalize"), "")
    return f"multiples of {direction['label']}\n(norm {direction['norm']:.3g}{kind})"


def _short_axis_label(surface: Surface, axis: int) -> str:
    directions = surface.metadata.get("directions", [])
    if axis >= len(directions):
        return f"{'xy'[axis]} (multiples of the direction)"
    return f"\n{directions[axis]['label']}\n(1 = norm {directions[axis]['norm']:.3g})"


def _text(surface: Surface) -> str:
    return f"{surface.n_sequences} sequences" if surface.n_sequences else "a text that the file does not name"


def _put_title(
    ax: Axes, surface: Surface, scale: _Scale, title: str | None, trajectory: Trajectory | None = None
) -> None:
    notes = [f"mean of {_text(surface)}"]
    if not surface.is_complete:
        notes.append(f"{surface.n_evaluated} of {surface.n_points} points so far")
    if n_clipped := scale.n_clipped(surface):
        notes.append(f"clipped at {scale.high:.3g} ({100 * n_clipped / surface.n_points:.0f} % of points)")
    if surface.n_diverged:
        notes.append(f"{surface.n_diverged} points diverged (blank)")
    if scale.log:
        notes.append("log scale")
    if trajectory is not None:
        notes.append(f"the plane holds {100 * trajectory.explained:.0f} % of the path")
    _titled(ax, surface.label if title is None else title, "; ".join(notes))


def _titled(ax: Axes, title: str, note: str) -> None:
    """A title with a smaller line of facts beneath it, both broken to the width of a panel."""
    import textwrap

    lines = "\n".join(textwrap.wrap(note, 48))
    lift = -24 if ax.name == "3d" else 5  # above a sheet there is room inside the axes
    # the note sits in the title's padding: so the layout knows of both
    ax.annotate(
        lines, (0.5, 1), (0, lift), xycoords="axes fraction", textcoords="offset points", ha="center", fontsize="small"
    )
    ax.set_title("\n".join(textwrap.wrap(title, 40)), pad=12 * (lines.count("\n") + 1) + 3 + lift)


def _plain_ticks(axis: Any, scale: _Scale, ticks: np.ndarray) -> None:
    if scale.log:  # decades alone would leave most colour bars without a number
        axis.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        axis.set_ticks([], minor=True)
