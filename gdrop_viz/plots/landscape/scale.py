"""Loss scale that compared panels share, and the stand-ins for points not computed yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gdrop_viz.landscape.surface import Surface


@dataclass(frozen=True)
class LossScale:
    """One scale of the loss for all panels that are compared; losses above `high` are clipped."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(
        cls,
        surfaces: Sequence[Surface],
        *,
        log: bool = False,
        clip: float | None = None,
        limits: tuple[float, float] | None = None,
    ) -> LossScale:
        """Span all finite losses of `surfaces` up to `clip`, or `limits`; raises ValueError where that is nothing."""
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
        return cls(low, high if high > low else low + 1e-6 * max(1.0, abs(low)), log)

    def n_clipped(self, surface: Surface) -> int:
        """How many finite points of `surface` lie above the scale."""
        return int((surface.loss > self.high * (1 + 1e-12)).sum() - np.isposinf(surface.loss).sum())

    def extend(self, surfaces: Iterable[Surface]) -> str:
        """Matplotlib's word for a colour bar that goes on above, if anything is clipped."""
        return "max" if any(self.n_clipped(surface) for surface in surfaces) else "neither"


def filled_in(surface: Surface) -> np.ndarray:
    """The loss with what the known points suggest in place of those not known yet: linear between, nearest outside."""
    if surface.is_complete or not surface.n_evaluated or surface.y is None:
        return surface.loss
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    grid = np.stack(np.meshgrid(surface.x, surface.y, indexing="ij"), axis=-1)
    known, values = grid[surface.evaluated], surface.loss[surface.evaluated]
    guess = griddata(known, values, grid, method="nearest")
    try:
        between = griddata(known, values, grid, method="linear")
    except QhullError:  # too few points, or all on one line
        return np.asarray(guess)
    return np.where(np.asarray(surface.evaluated), surface.loss, np.where(np.isfinite(between), between, guess))


def name_ticks(axis: Any, ticks: np.ndarray, *, log: bool) -> None:
    """Name `ticks` on a logarithmic colour bar, where decades alone would leave most bars without a number."""
    if log:
        axis.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        axis.set_ticks([], minor=True)
