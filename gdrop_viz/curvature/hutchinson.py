"""Hutchinson's estimator of traces, and sums over groups of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gdrop_viz.curvature.operator import Operator
from gdrop_viz.perturbation.selection import Selection


def random_signs(n: int, dtype: np.dtype[np.floating[Any]], *, seed: int, probe: int) -> np.ndarray:
    """n independent ±1 (Rademacher): the probe vectors of trace and density estimates."""
    return np.random.default_rng([seed, probe]).integers(0, 2, n, dtype=np.int8).astype(dtype) * 2 - 1


class Hutchinson:
    """Hutchinson's estimates of a trace: in total, of each tensor's diagonal block, and of each set of elements.

    tr A = E[vᵀ A v] for v of independent random signs. The entries of v ∘ (A v) have A's diagonal as their means, so
    their sum over any set of elements estimates the trace of A's block over that set, from the same product.
    """

    def __init__(self, operator: Operator, parts: Mapping[str, Selection] | None, seed: int) -> None:
        self._operator, self._seed = operator, seed
        self._places = {name: operator.places(part) for name, part in (parts or {}).items()}

    def sample(self, times: Callable[[np.ndarray], np.ndarray], probe: int) -> list[float]:
        """Return the sums of v ∘ (A v) for the probe vector v of that number; `times` gives A v."""
        signs = random_signs(self._operator.shape[0], self._operator.dtype, seed=self._seed, probe=probe)
        return self.sums(signs * times(signs))

    def sums(self, vector: np.ndarray) -> list[float]:
        """Return the sums of a vector's entries over each tensor, then over each part."""
        blocks = np.split(vector, np.cumsum(self._operator.sizes)[:-1])
        blocks += [vector[place] for place in self._places.values()]
        return [float(block.sum(dtype=np.float64)) for block in blocks]

    def apart(self, sums: Sequence[Any]) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, int]]]:
        """Split a stack of `sums` (..., tensors + parts): those of tensors; part -> (its sums (...), its elements)."""
        every, tensors = np.array(sums), len(self._operator.names)
        of_parts = enumerate(self._places.items(), start=tensors)
        return every[..., :tensors], {name: (every[..., k], len(place)) for k, (name, place) in of_parts}


def grouped(
    names: Sequence[str], sizes: Sequence[int], values: np.ndarray, group_of: Callable[[str], str]
) -> dict[str, tuple[np.ndarray, int]]:
    """Add up the last axis of `values` (..., tensors) over groups: group -> (sums (...), elements)."""
    sums: dict[str, tuple[np.ndarray, int]] = {}
    for t, (name, size) in enumerate(zip(names, sizes, strict=True)):
        before, elements = sums.get(group_of(name), (np.zeros(values.shape[:-1]), 0))
        sums[group_of(name)] = (before + values[..., t], elements + size)
    return sums
