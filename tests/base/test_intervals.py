"""Do the interval and the rank correlation agree with tables and with scipy, ties and all?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gdrop_viz.base.intervals import spearman, student_interval


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0]
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # t(0.975, 2), any table
    found = student_interval(values)
    assert (found.low, found.high) == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-6)
    assert (found.mean, found.std, found.n) == pytest.approx((7 / 3, np.std(values, ddof=1), 3))
    narrow = student_interval(values, confidence=0.5)
    assert narrow.high - narrow.mean == pytest.approx(0.816497 * np.std(values, ddof=1) / np.sqrt(3), rel=1e-6)


def test_of_one_value_or_none_the_spread_is_unknown():
    assert student_interval([3.0]).mean == 3.0
    assert np.isnan([student_interval([3.0]).low, student_interval([]).mean, student_interval([]).std]).all()
    with pytest.raises(ValueError, match="confidence as a number above 0 and below 1, got 95"):
        student_interval([1.0, 2.0], confidence=95)


def test_rank_correlations_are_scipys_row_by_row_also_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, size=(2, 20, 12)).astype(float)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b), expected, atol=1e-12)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
