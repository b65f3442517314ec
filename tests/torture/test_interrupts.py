"""The state wherever a call ends: every forward of some calls, and random ones of all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.torture import guards, interrupts


@pytest.mark.parametrize("how", interrupts.ERRORS)
@pytest.mark.parametrize("name", ["fisher_information, tensors", "hessian_trace", "schedule.applied"])
def test_at_every_forward(name, how):
    assert interrupts.trial(name, how)["interrupts"] >= 3


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(set(interrupts.CALLS) - {"compare"})),
    how=st.sampled_from(interrupts.ERRORS),
    n=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_anywhere(name, how, n, seed):
    interrupts.interrupted(name, n, how, seed)


@pytest.mark.parametrize("how", interrupts.ERRORS)
def test_in_a_comparison(how):
    for n in (0, 9):
        interrupts.interrupted("compare", n, how)


@pytest.mark.parametrize(
    ("guard", "name"),
    [
        ("the modes", "fisher_information, tensors"),
        ("requires_grad", "fisher_information, tensors"),
        ("the weights", "loss_surface"),
        ("the rates", "schedule.applied"),
        ("the generators", "hessian_trace, a loss that draws"),
        ("the generators of surfaces", "loss_surface, a loss that draws"),
    ],
)
def test_it_fails_without_the_guard(guard, name):
    with guards.removed(guard), pytest.raises(AssertionError, match="left changed"):
        interrupts.trial(name, "KeyboardInterrupt")
