"""Growing surface: filled point by point, in memory and in its file."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gdrop_viz.landscape import surface_file
from gdrop_viz.landscape.evaluation import PointValue
from gdrop_viz.landscape.fingerprint import check_same
from gdrop_viz.landscape.surface import Surface

logger = logging.getLogger(__name__)


class GrowingSurface:
    """A surface that is being filled, in memory and (if asked) in its file."""

    def __init__(self, axes: Sequence[np.ndarray], n_sequences: int, metrics: Sequence[str], metadata: Any) -> None:
        self.x, self.y = axes[0], axes[1] if len(axes) == 2 else None
        self.metadata = metadata
        shape = tuple(map(len, axes))
        self.loss, self.error = np.full(shape, np.nan), np.full(shape, np.nan)
        self.sequences = np.full((*shape, n_sequences), np.nan)
        self.metrics = {name: np.full(shape, np.nan) for name in metrics}
        self.evaluated = np.zeros(shape, dtype=bool)
        self._writer: surface_file.PointWriter | None = None

    def attach(self, path: Path, fingerprint: dict[str, Any]) -> None:
        """Keep the points in the file at `path`; take what is there already."""
        if path.exists():
            check_same(path, surface_file.read_fingerprint(path), fingerprint)
            known = Surface.load(path)
            logger.info("going on with %d of %d points from %s", known.n_evaluated, known.n_points, path)
            self.loss, self.error, self.evaluated = known.loss, known.standard_error, known.evaluated
            if known.sequence_losses is not None:  # in every file of a computation
                self.sequences = known.sequence_losses
            self.metrics = dict(known.metrics)
        else:
            surface_file.write(self.surface(), path, fingerprint=fingerprint)
        self._writer = surface_file.PointWriter(path, len(self.x))

    def put(self, index: tuple[int, ...], value: PointValue) -> None:
        """Record one point; on disk first."""
        with np.errstate(all="ignore"):
            mean = float(value.losses.mean())
            n = len(value.losses)
            error = float(value.losses.std(ddof=1) / math.sqrt(n)) if n > 1 else float("nan")
        if self._writer is not None:
            self._writer.put(index, value.losses, mean, error, value.metrics)
        self.loss[index], self.error[index], self.sequences[index] = mean, error, value.losses
        for name, number in value.metrics.items():
            self.metrics[name][index] = number
        self.evaluated[index] = True

    def close(self) -> None:
        """Have what is in the file written to the device."""
        if self._writer is not None:
            self._writer.sync()

    def surface(self) -> Surface:
        """The surface so far: a copy, which later points do not change."""
        metrics = {name: values.copy() for name, values in self.metrics.items()}
        arrays = (self.loss.copy(), self.error.copy(), self.sequences.copy())
        return Surface(self.x, self.y, *arrays, metrics, self.evaluated.copy(), self.metadata)
