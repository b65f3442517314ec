"""Do curvature, radii and plateau agree with surfaces whose shape is known in closed form?"""

from __future__ import annotations

import numpy as np
import pytest

from gdrop_viz.landscape import Surface

X = np.linspace(-1, 1, 21)
X[10] = 0


def surface_of(function, x=X, y=X, **settings) -> Surface:
    return Surface(x, y, function(*np.meshgrid(x, y, indexing="ij")), **settings)


def test_a_quadratic_is_found_exactly_with_its_axes():
    hessian = np.array([[3.0, 1.0], [1.0, 2.0]])
    surface = surface_of(lambda x, y: 5 + 0.3 * x - 0.2 * y + 0.5 * (3 * x * x + 2 * x * y + 2 * y * y))
    fit = surface.curvature()
    np.testing.assert_allclose(fit.hessian, hessian, atol=1e-10)
    np.testing.assert_allclose(fit.eigenvalues, np.linalg.eigvalsh(hessian)[::-1], atol=1e-10)
    np.testing.assert_allclose(hessian @ fit.eigenvectors, fit.eigenvectors * fit.eigenvalues, atol=1e-10)
    np.testing.assert_allclose(fit.gradient, [0.3, -0.2], atol=1e-10)
    assert fit.centre == pytest.approx(5)
    assert fit.fit_error < 1e-10
    assert fit.radius == pytest.approx(np.sqrt(2))  # a perfect fit uses every point


def test_curvature_per_squared_distance_knows_lengths_and_angles():
    """L = ½·(a·u₁² + b·u₂²) in weight space, seen along two skew directions of different length."""
    a, b = 4.0, 0.5
    directions = np.array([[2.0, 0.0], [1.0, 3.0]])  # rows
    products = (directions @ directions.T).tolist()

    def loss(x, y):
        u = x[..., None] * directions[0] + y[..., None] * directions[1]
        return 0.5 * (a * u[..., 0] ** 2 + b * u[..., 1] ** 2)

    fit = surface_of(loss, metadata={"inner_products": products}).curvature()
    np.testing.assert_allclose(fit.per_squared_distance, [a, b], rtol=1e-9)


def test_the_radius_is_that_of_the_quadratic_part():
    surface = surface_of(lambda x, y: 1 - np.cos(2 * np.hypot(x, y)))  # Hessian 4·I at the centre
    fit = surface.curvature()
    assert 0.2 < fit.radius < 1.2
    assert fit.fit_error <= 0.05
    near = surface.curvature(radius=0.25)
    assert near.radius == 0.25
    # cos's fourth-order term: 1 - 4 r²/12 on average within 0.25 is below 3 %
    np.testing.assert_allclose(near.eigenvalues, [4, 4], rtol=0.03)
    with pytest.raises(ValueError, match="at least 6 finite points"):
        surface.curvature(radius=0.1)


def test_standard_errors_are_those_of_the_mean_curvature_over_sequences():
    rng = np.random.default_rng(0)
    each = rng.normal(3.0, 0.5, size=400)
    line = X[:, None]
    surface = Surface(X, None, (0.5 * each * line**2).mean(-1), sequence_losses=0.5 * each * line**2)
    fit = surface.curvature()
    assert fit.eigenvalues[0] == pytest.approx(each.mean())
    assert fit.standard_errors[0] == pytest.approx(each.std(ddof=1) / 20)


def test_points_that_are_not_finite_or_not_known_are_left_out():
    surface = surface_of(lambda x, y: x * x + 3 * y * y)
    loss = surface.loss.copy()
    loss[0], loss[:, -1] = np.nan, np.inf
    evaluated = np.ones_like(loss, dtype=bool)
    evaluated[0] = False
    fit = Surface(X, X, loss, evaluated=evaluated).curvature()
    np.testing.assert_allclose(fit.eigenvalues, [6, 2], atol=1e-9)


def test_rings_and_radii_of_a_cone():
    surface = surface_of(lambda x, y: 2 + 4 * np.hypot(x, y))
    profile = surface.radial()
    np.testing.assert_allclose(profile["loss"], 2 + 4 * profile["radius"])
    assert profile["points"].sum() == (np.hypot(*np.meshgrid(X, X)) <= 1 + 1e-9).sum()
    for amount in (0.1, 1.0, 3.5):
        assert surface.rise_radius(amount) == pytest.approx(amount / 4)
    assert surface.suggested_extent == pytest.approx(0.5)
    assert np.isnan(surface.rise_radius(100))
    shallow = surface_of(lambda x, y: 0.01 * (x + y))
    assert shallow.suggested_extent == 2.0
    with pytest.raises(ValueError, match="the rise as a number above 0"):
        surface.rise_radius(-1)


def test_the_plateau_is_the_outer_ring_beside_guessing():
    surface = surface_of(
        lambda x, y: np.where(np.maximum(abs(x), abs(y)) > 0.85, 7.0, 1.0), metadata={"vocabulary": 1000}
    )
    level = surface.plateau()
    assert (level.level, level.spread) == (7.0, 0.0)
    assert level.ln_vocabulary == pytest.approx(np.log(1000))
    assert np.isnan(Surface(X, None, X**2).plateau().ln_vocabulary)  # a file from elsewhere
    of_a_classifier = Surface(X, None, X**2, metadata={"vocabulary": 1000, "unit": "nats"})
    assert np.isnan(of_a_classifier.plateau().ln_vocabulary)
    assert Surface(X, None, X**2).plateau(vocabulary=50).ln_vocabulary == pytest.approx(np.log(50))


def test_a_cut_keeps_everything_of_its_line():
    rng = np.random.default_rng(1)
    sequences = rng.normal(size=(21, 21, 5))
    surface = Surface(
        X, X, sequences.mean(-1), sequences.std(-1), sequences, {"m": sequences[..., 0]},
        metadata={"directions": [{"label": "one", "norm": 1.0}, {"label": "two", "norm": 2.0}]},
    )  # fmt: skip
    cut = surface.cross_section("y", at=0.52)
    np.testing.assert_array_equal(cut.loss, surface.loss[15])
    np.testing.assert_array_equal(cut.sequence_losses, sequences[15])
    assert [direction["label"] for direction in cut.metadata["directions"]] == ["two"]
    np.testing.assert_array_equal(surface.cross_section().loss, surface.loss[:, 10])


def test_the_rise_has_a_paired_standard_error():
    rng = np.random.default_rng(2)
    level = rng.normal(5, 2, size=100)  # sequences differ a lot, but rise together
    sequences = level + X[:, None] ** 2
    surface = Surface(X, None, sequences.mean(-1), sequences.std(-1, ddof=1) / 10, sequences)
    rise, error = surface.rise()
    np.testing.assert_allclose(rise, X**2, atol=1e-12)
    assert error.max() < 1e-12
    assert surface.standard_error.min() > 0.1
    with pytest.raises(ValueError, match="odd number of points"):
        Surface(X[:2], None, np.zeros(2)).rise()
