"""Are the largest elements, and what they hold of the sum, those of a full stable sort?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdrop_viz.base import order_statistics
from gdrop_viz.base.order_statistics import concentration, largest

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
# few different values, so that ties are everywhere, and any float at all: zeros of both signs, subnormal, negative
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38])


def fully_sorted(scores: dict[str, torch.Tensor], count: int) -> np.ndarray:
    values = torch.cat([score.reshape(-1).double() for score in scores.values()]).numpy()
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-values, kind="stable")[:count]] = True
    return chosen


def flat(masks: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([mask.reshape(-1) for mask in masks.values()]).numpy()


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.one_of(few, numbers), min_size=9, max_size=9),
    dtypes=st.sampled_from([(torch.float32, torch.float32), (torch.bfloat16, torch.float16),
                            (torch.float64, torch.float64), (torch.float32, torch.float64)]),
    count=st.integers(0, 9),
)  # fmt: skip
def test_the_largest_are_those_of_a_stable_sort(values, dtypes, count):
    tensors = [torch.tensor(values[:4]).to(dtypes[0]).reshape(2, 2), torch.tensor(values[4:]).to(dtypes[1])]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):  # too large for half precision
        return
    scores = dict(zip("ab", tensors, strict=True))
    assert (flat(largest(scores, count)) == fully_sorted(scores, count)).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16])
def test_integers_too_at_both_ends_of_their_range(dtype):
    ends = torch.iinfo(dtype)
    scores = {"a": torch.tensor([ends.min, ends.max, 0, -1, 1, ends.max, ends.min], dtype=dtype)}
    order = [1, 5, 4, 2, 3, 0, 6]
    for count in range(8):
        assert flat(largest(scores, count)).nonzero()[0].tolist() == sorted(order[:count])


def test_many_pieces_are_one_order(monkeypatch):
    monkeypatch.setattr(order_statistics, "_PIECE", 7)
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.randint(0, 4, (5, n), generator=generator).float() ** 3 for name, n in (("a", 9), ("b", 4))}
    scores["c"] = scores["a"].T  # not contiguous
    for count in (1, 17, 50, 109, 110):
        assert (flat(largest(scores, count)) == fully_sorted(scores, count)).all()
    ordered = np.sort(np.concatenate([score.reshape(-1).double().numpy() for score in scores.values()]))[::-1]
    curve = np.concatenate([[0.0], ordered.cumsum() / ordered.sum()])
    ranks = np.array([1, 7, 8, 60, 110])
    shares, area = concentration(scores.values(), ranks)
    np.testing.assert_allclose(shares, curve[ranks], rtol=1e-12)
    assert area == pytest.approx(np.trapezoid(curve) / 110, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite scores, got NaN or infinity"):
        largest({"a": torch.ones(3), "b": torch.tensor([1.0, bad])}, 1)


def test_scores_that_are_all_zero_hold_nothing():
    shares, area = concentration([torch.zeros(4)], np.array([1, 4]))
    assert (shares.tolist(), area) == ([0, 0], 0)
