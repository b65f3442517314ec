"""Grid of a surface: its points, in an order that gives a picture early and then sharpens it."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np

from gdrop_viz.base.checks import whole

Extent = float | tuple[float, float]


def coordinates(extent: Extent, points: int) -> np.ndarray:
    """Return `points` equally spaced coordinates over ±extent, or over (low, high).

    A symmetric grid with an odd number of points contains exactly 0, which `linspace` does not promise.

    >>> coordinates(1.5, 5)
    array([-1.5 , -0.75,  0.  ,  0.75,  1.5 ])
    """
    points = whole(points, "points per axis", least=2)
    if isinstance(extent, (float, numbers.Real)):
        low, high = -float(extent), float(extent)
    else:
        low, high = map(float, extent)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"expected extent as a number above 0 or as (low, high) with low < high, got {extent!r}")
    if low != -high:
        grid = np.linspace(low, high, points)
        return np.where(np.abs(grid) < 1e-12 * (high - low), 0.0, grid)
    # the positive half, mirrored: -x and x are then the same number
    half = high * (np.arange((points + 1) % 2, points, 2) / (points - 1))
    return np.concatenate([-half[::-1][: points // 2], half])


def coarse_to_fine(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the indices of all points of a grid: a coarse lattice through the centre first, then ever finer ones.

    Each lattice has half the spacing of the one before, so that after about 1/16 of a 2-D grid's points every
    fourth row and column is known; within a lattice the points come from the centre outwards.

    >>> coarse_to_fine((5,))
    [(2,), (0,), (4,), (1,), (3,)]
    """
    centre = np.array([n // 2 for n in shape])
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape))
    offset = np.abs(indices - centre)
    # the largest spacing that still leaves three points on an axis
    finest = max(0, int(np.log2(max(max(shape) // 2, 1))))
    spacing = 2 ** np.min([_powers_of_two(offset[:, axis], finest) for axis in range(len(shape))], axis=0)
    distance = (offset**2).sum(axis=1)
    order = np.lexsort((*indices.T[::-1], distance, -spacing))
    return [tuple(int(i) for i in indices[at]) for at in order]


def _powers_of_two(offset: np.ndarray, largest: int) -> np.ndarray:
    """The exponent of the highest power of two, up to `largest`, that divides each offset."""
    exponent = np.zeros_like(offset)
    for power in range(1, largest + 1):
        exponent[offset % 2**power == 0] = power
    return exponent
