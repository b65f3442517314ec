"""Do the points of a grid lie where they should, and come from coarse to fine?"""

from __future__ import annotations

import numpy as np
import pytest

from gdrop_viz.landscape.grid import coarse_to_fine, coordinates


@pytest.mark.parametrize("points", range(2, 60))
@pytest.mark.parametrize("extent", [1.5, 0.1, 1 / 3])
def test_symmetric_to_the_last_bit_and_equally_spaced(points, extent):
    x = coordinates(extent, points)
    assert len(x) == points
    assert (x == -x[::-1]).all()
    assert x[-1] == extent
    assert (0 in x) == (points % 2 == 1)
    np.testing.assert_allclose(x, np.linspace(-extent, extent, points), atol=1e-12)


def test_an_interval_that_holds_zero_holds_it_exactly():
    assert 0 in coordinates((-0.3, 1.0), 14)


@pytest.mark.parametrize("shape", [(21, 21), (5, 5), (16, 16), (7, 12), (2, 3), (65, 65), (21,), (2,)])
def test_every_point_comes_once(shape):
    order = coarse_to_fine(shape)
    assert len(order) == len(set(order)) == np.prod(shape)
    assert order[0] == tuple(n // 2 for n in shape)


@pytest.mark.parametrize("n", [21, 25, 33, 65])
def test_about_a_sixteenth_of_the_points_is_a_lattice_over_the_whole_grid(n):
    known = np.zeros((n, n), dtype=bool)
    for index in coarse_to_fine((n, n))[: int(np.ceil((n + 3) ** 2 / 16))]:
        known[index] = True
    centre = n // 2
    assert known[centre % 4 :: 4, centre % 4 :: 4].all()
    # no point of the grid is further than 2 x sqrt(2) steps from a known one, but for what lies outside the lattice
    where = np.argwhere(known)
    furthest = max(np.abs(where - point).max(axis=1).min() for point in np.argwhere(~known))
    assert furthest <= 3


@pytest.mark.parametrize(
    ("extent", "points"), [(0, 5), (-1, 5), (float("nan"), 5), ((1, 0), 5), (1, 1), (1, 2.5), (1, True)]
)
def test_bad_grids_are_named(extent, points):
    with pytest.raises(ValueError, match=r"expected (extent|points)"):
        coordinates(extent, points)
