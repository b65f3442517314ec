"""What does a picture of a surface say about itself: its axes, its text, what was left out?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.landscape.paths import Trajectory
    from gdrop_viz.landscape.surface import Surface
    from gdrop_viz.plots.landscape.scale import LossScale


def axis_label(surface: Surface, axis: int) -> str:
    """What one unit of the axis is: a multiple of which direction, at which norm."""
    if "axis" in surface.metadata:
        return surface.metadata["axis"]
    directions = surface.metadata.get("directions", [])
    if axis >= len(directions):
        return f"{'xy'[axis]} (multiples of the direction)"
    direction = directions[axis]
    kind = {"filter": ", filter-normalised", "tensor": ", tensor-normalised"}.get(direction.get("normalize"), "")
    return f"multiples of {direction['label']}\n(norm {direction['norm']:.3g}{kind})"


def short_axis_label(surface: Surface, axis: int) -> str:
    directions = surface.metadata.get("directions", [])
    if axis >= len(directions):
        return f"{'xy'[axis]} (multiples of the direction)"
    return f"\n{directions[axis]['label']}\n(1 = norm {directions[axis]['norm']:.3g})"


def loss_label(surfaces: Iterable[Surface]) -> str:
    """What the loss axis shows, with its unit where all surfaces have the same; files from before name none: nats."""
    units = {surface.metadata.get("unit", "nats") for surface in surfaces}
    unit = units.pop() if len(units) == 1 else ""
    return f"loss ({unit})" if unit else "loss"


def text_of(surface: Surface) -> str:
    return f"{surface.n_sequences} sequences" if surface.n_sequences else "a text that the file does not name"


def put_title(
    ax: Axes, surface: Surface, scale: LossScale, title: str | None, trajectory: Trajectory | None = None
) -> None:
    notes = [f"mean of {text_of(surface)}"]
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
    titled(ax, surface.label if title is None else title, "; ".join(notes))


def titled(ax: Axes, title: str, note: str) -> None:
    """A title with a smaller line of facts beneath it, both broken to the width of a panel."""
    lines = "\n".join(textwrap.wrap(note, 48))
    lift = -24 if ax.name == "3d" else 5  # above a sheet there is room inside the axes
    # the note sits in the title's padding: so the layout knows of both
    ax.annotate(
        lines, (0.5, 1), (0, lift), xycoords="axes fraction", textcoords="offset points", ha="center", fontsize="small"
    )
    ax.set_title("\n".join(textwrap.wrap(title, 40)), pad=12 * (lines.count("\n") + 1) + 3 + lift)
