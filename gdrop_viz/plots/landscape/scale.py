"""On which scale of the loss are panels drawn, and what is clipped?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

    from gdrop_viz.landscape.surface import Surface

COLORMAP = "viridis"


@dataclass(frozen=True)
class LossScale:
    """One scale of the loss for all panels that are compared."""

    low: float
    high: float
    log: bool
    clip: float | None

    @classmethod
    def of(
        cls, surfaces: Sequence[Surface], *, log: bool, clip: float | None, limits: tuple[float, float] | None = None
    ) -> LossScale:
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


def filled_in(surface: Surface) -> np.ndarray:
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


def plain_ticks(axis: Any, scale: LossScale, ticks: np.ndarray) -> None:
    if scale.log:  # decades alone would leave most colour bars without a number
        axis.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        axis.set_ticks([], minor=True)
