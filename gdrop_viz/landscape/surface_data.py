"""Data of a loss surface: coordinates, losses and what else is known at each point of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_NOT_GIVEN = np.empty(0)


@dataclass(frozen=True, eq=False, repr=False)
class SurfaceData:
    """Arrays over a grid, of checked shapes; see `Surface` for what they mean."""

    x: np.ndarray
    y: np.ndarray | None
    loss: np.ndarray
    standard_error: np.ndarray = field(default_factory=lambda: _NOT_GIVEN)
    sequence_losses: np.ndarray | None = None
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    evaluated: np.ndarray = field(default_factory=lambda: _NOT_GIVEN)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("x", np.asarray(self.x, dtype=np.float64))
        put("y", None if self.y is None else np.asarray(self.y, dtype=np.float64))
        put("loss", np.asarray(self.loss, dtype=np.float64))
        shape = tuple(len(axis) for axis in self.axes)
        defaults = {"evaluated": np.ones(shape, dtype=bool), "standard_error": np.full(shape, np.nan)}
        for name, default in defaults.items():
            if (given := getattr(self, name)) is None or given is _NOT_GIVEN:
                put(name, default)
        arrays = {"loss": self.loss, "standard_error": self.standard_error, "evaluated": self.evaluated, **self.metrics}
        for name, array in arrays.items():
            if np.shape(array) != shape:
                raise ValueError(f"expected {name} of shape {shape} (x first, then y), got {np.shape(array)}")
        if self.sequence_losses is not None and self.sequence_losses.shape[:-1] != shape:
            raise ValueError(f"expected sequence_losses of shape {(*shape, 'N')}, got {self.sequence_losses.shape}")

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """The coordinates of each axis: x, and y for a plane."""
        return (self.x,) if self.y is None else (self.x, self.y)

    @property
    def grid(self) -> np.ndarray:
        """The coordinates of each point: loss's shape, and one entry per axis."""
        return np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1)

    @property
    def directions(self) -> list[dict[str, Any]]:
        """What is known of each direction: label, norm, seed, normalisation."""
        return list(self.metadata.get("directions", []))

    @property
    def n_points(self) -> int:
        """How many points the grid has."""
        return self.loss.size

    @property
    def n_evaluated(self) -> int:
        """How many of them are known."""
        return int(self.evaluated.sum())

    @property
    def n_diverged(self) -> int:
        """How many of the known points have no finite loss."""
        return int((self.evaluated & ~np.isfinite(self.loss)).sum())

    @property
    def is_complete(self) -> bool:
        """Whether every point is known."""
        return self.n_evaluated == self.n_points

    @property
    def n_sequences(self) -> int | None:
        """How many sequences each point averages over; None if the file does not say."""
        if self.sequence_losses is not None:
            return self.sequence_losses.shape[-1]
        return self.metadata.get("n_sequences")

    @property
    def unit(self) -> str:
        """The unit of the loss; "" where a loss of one's own makes it."""
        return self.metadata.get("unit", "nats per predicted token")

    @property
    def label(self) -> str:
        """What this surface shows, in words."""
        return self.metadata.get("label", "")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per point: x, y, loss, standard_error, evaluated and the metrics."""
        import pandas as pd

        columns = {name: self.grid[..., i].ravel() for i, name in enumerate("xy"[: len(self.axes)])}
        columns.update(loss=self.loss.ravel(), standard_error=self.standard_error.ravel())
        columns.update({name: values.ravel() for name, values in self.metrics.items()})
        return pd.DataFrame({**columns, "evaluated": self.evaluated.ravel()})
