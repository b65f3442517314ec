"""What does a panel show, before anything is drawn? Axes, series and cells as plain data.

The states of the explorers answer with a `Picture`; `Chart` shows it live in the browser, `static.figure` draws the
same picture with matplotlib for the saved notebook. Nothing here knows of a widget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Axis:
    """One axis: its label with the unit, and its bounds, which stay as they are while values arrive.

    `ticks` are (position, text) pairs for named positions; without them round numbers are chosen. With `log` the
    bounds are positive and the scale is logarithmic.
    """

    label: str
    bounds: tuple[float, float]
    ticks: Sequence[tuple[float, str]] | None = None
    log: bool = False

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or (self.log and low <= 0):
            expected = "0 < low < high" if self.log else "low < high"
            raise ValueError(f"axis {self.label!r}: bounds must be finite with {expected}, got {self.bounds}")


# eq=False: the values may be arrays, which have no single answer to ==
@dataclass(frozen=True, eq=False)
class Series:
    """Points in order, with a line, markers or both, and optionally an interval [low, high] at each.

    `style` chooses hue, dash and marker together, so that no two series differ by hue alone. An interval is drawn as
    a band along a line and as an error bar at a lone marker. `details` is read out at each point instead of `label`.
    A point on another series' line need not stand `in_legend`.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: int = 0
    line: bool = True
    marker: bool = True
    details: Sequence[str] | None = None
    in_legend: bool = True

    def __post_init__(self) -> None:
        for name in ("y", "low", "high", "details"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.x):
                raise ValueError(f"series {self.label!r}: {name} has {len(values)} values for {len(self.x)} of x")


@dataclass(frozen=True, eq=False)
class Cells:
    """A grid of coloured cells: `values[i][j]` at `x[i]`, `y[j]`, coloured by viridis between `bounds`."""

    x: Sequence[float]
    y: Sequence[float]
    values: Sequence[Sequence[float]]
    label: str
    bounds: tuple[float, float]
    log: bool = False

    def __post_init__(self) -> None:
        shape = (len(self.values), len(self.values[0]) if len(self.values) else 0)
        if shape != (len(self.x), len(self.y)) or any(len(column) != len(self.y) for column in self.values):
            raise ValueError(
                f"cells {self.label!r}: expected values of shape {(len(self.x), len(self.y))}, got {shape}"
            )


@dataclass(frozen=True, eq=False)
class Picture:
    """Everything one set of axes shows; `summary` says the finding in one plain sentence.

    >>> rates = Series("feed-forward", [0, 1], [0.0, 0.1])
    >>> picture = Picture("Rates", "Two layers.", Axis("layer", (0, 1)), Axis("dropout rate", (0, 0.5)), (rates,))
    >>> picture.to_json()["series"][0]["y"]
    [0.0, 0.1]
    """

    title: str
    summary: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    cells: Cells | None = None

    def to_json(self) -> dict[str, Any]:
        """The picture as JSON values; what is not finite becomes None, for JSON knows no NaN."""
        return _json(self)


def _json(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {name: _json(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "__len__"):
        return [_json(item) for item in value]
    value = value if isinstance(value, int) else float(value)
    return value if math.isfinite(value) else None
