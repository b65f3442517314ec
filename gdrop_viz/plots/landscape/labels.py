"""Words of a surface's picture: its axes, its text, what was left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gdrop_viz.landscape.surface import Surface
    from gdrop_viz.plots.landscape.scale import LossScale


def axis_label(surface: Surface, axis: int) -> str:
    """What one unit of the axis is: a multiple of which direction, at which norm."""
    if "axis" in surface.metadata:
        return str(surface.metadata["axis"])
    directions = surface.metadata.get("directions", [])
    if axis >= len(directions):
        return f"{'xy'[axis]} (multiples of the direction)"
    direction = directions[axis]
    kind = {"filter": ", filter-normalised", "tensor": ", tensor-normalised"}.get(direction.get("normalize"), "")
    return f"multiples of {direction['label']}\n(norm {direction['norm']:.3g}{kind})"


def short_axis_label(surface: Surface, axis: int) -> str:
    """The same in few words, for an axis in space."""
    directions = surface.metadata.get("directions", [])
    if axis >= len(directions):
        return f"{'xy'[axis]} (multiples of the direction)"
    return f"\n{directions[axis]['label']}\n(1 = norm {directions[axis]['norm']:.3g})"


def loss_label(surfaces: Iterable[Surface]) -> str:
    """What the loss axis shows, with its unit where all surfaces have the same; a file that names none means nats."""
    units = {surface.metadata.get("unit", "nats") for surface in surfaces}
    unit = units.pop() if len(units) == 1 else ""
    return f"loss ({unit})" if unit else "loss"


def text_of(surface: Surface) -> str:
    """How much text each loss is the mean of."""
    return f"{surface.n_sequences} sequences" if surface.n_sequences else "a text that the file does not name"


def facts(surface: Surface, scale: LossScale) -> list[str]:
    """How the surface was measured, and what its picture leaves out."""
    found = [f"mean of {text_of(surface)}"]
    if not surface.is_complete:
        found.append(f"{surface.n_evaluated} of {surface.n_points} points so far")
    if n_clipped := scale.n_clipped(surface):
        found.append(f"clipped at {scale.high:.3g} ({100 * n_clipped / surface.n_points:.0f} % of points)")
    if surface.n_diverged:
        found.append(f"{surface.n_diverged} points diverged (blank)")
    if scale.log:
        found.append("log scale")
    return found


def surface_summary(surface: Surface, scale: LossScale) -> str:
    """The surface in one sentence, for a reader who does not see it."""
    norms = ", ".join(f"{direction['norm']:.3g}" for direction in surface.metadata.get("directions", []))
    parts = facts(surface, scale)
    if surface.is_complete:
        parts.insert(1, f"{surface.n_points} of {surface.n_points} points")
    if np.isfinite(surface.centre_loss):
        parts.insert(0, f"centre {surface.centre_loss:.4g}")
    if norms:
        parts.append(f"norms of the directions {norms}")
    return f"{'; '.join(parts)}."
