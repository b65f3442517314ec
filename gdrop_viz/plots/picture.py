"""Picture of one result as plain data: axes, series, cells, words. Every renderer draws the same one.

A function beside each result makes its `Picture` once; `plots.render` draws it with matplotlib, also for the saved
notebook, and `widgets.Chart` shows it live in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Values = Sequence[float] | np.ndarray
# how far below the maximum a logarithmic axis goes at most: values that are zero but for rounding (the scores of key
# biases, for softmax ignores a constant) would squeeze all the others
_DEPTH = 1e-9


@dataclass(frozen=True)
class Axis:
    """One axis: its label with the unit, its bounds and its scale.

    `ticks` are (position, text) pairs for named positions; without them round numbers are chosen. With `log` the scale
    is logarithmic and the bounds are positive, unless it is linear up to `linear_below` on both sides of zero.
    """

    label: str
    bounds: tuple[float, float]
    ticks: Sequence[tuple[float, str]] | None = None
    log: bool = False
    linear_below: float | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        positive = self.log and self.linear_below is None
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or (positive and low <= 0):
            expected = "0 < low < high" if positive else "low < high"
            raise ValueError(f"axis {self.label!r}: bounds must be finite with {expected}, got {self.bounds}")

    @classmethod
    def around(cls, label: str, values: Iterable[float], *, log: bool = False, **settings: Any) -> Axis:
        """Make an axis with a little air around the finite values; `log` where any of them is above zero."""
        finite = np.array([value for value in values if math.isfinite(value)] or [0.0, 1.0])
        positive = finite[finite > 0]
        if log and "linear_below" not in settings:
            if len(positive):
                low = max(float(positive.min()), _DEPTH * float(positive.max()))
                return cls(label, (low / 1.5, float(positive.max()) * 1.5), log=True, **settings)
            log = False
        low, high = float(finite.min()), float(finite.max())
        air = 0.06 * (high - low) or 0.05
        return cls(label, (low - air, high + air), log=log, **settings)


# eq=False: the values may be arrays, which have no single answer to ==
@dataclass(frozen=True, eq=False)
class Series:
    """Points in order, with a line, markers or both, and optionally an interval [low, high] at each.

    `style` chooses hue, dash and marker together, so that no two series differ by hue alone. An interval is a band
    along a line, or a bar at each point: with `bars`, and at lone markers; `horizontal` where the values and their
    bars run along x. `faint` is for what stands behind: single runs as small dots, thin lines. `fill` draws a bar from
    zero to each value. `details` is read out at each point instead of `label`. A point on another series' line need
    not stand `in_legend`.
    """

    label: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None
    style: int = 0
    line: bool = True
    marker: bool = True
    bars: bool = False
    horizontal: bool = False
    faint: bool = False
    fill: bool = False
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

    x: Values
    y: Values
    values: Sequence[Sequence[float]] | np.ndarray
    label: str
    bounds: tuple[float, float]
    log: bool = False

    def __post_init__(self) -> None:
        shape = (len(self.values), len(self.values[0]) if len(self.values) else 0)
        if shape != (len(self.x), len(self.y)) or any(len(column) != len(self.y) for column in self.values):
            raise ValueError(
                f"cells {self.label!r}: expected values of shape {(len(self.x), len(self.y))}, got {shape}"
            )


@dataclass(frozen=True)
class Reference:
    """A thin grey line across the picture: where the values on that axis equal `at`."""

    axis: Literal["x", "y"]
    at: float
    label: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """Everything that one set of axes shows.

    `title` names it, `note` holds the facts about how it was measured, `summary` says the finding in one plain
    sentence.

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
    references: tuple[Reference, ...] = ()
    note: str = ""

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
