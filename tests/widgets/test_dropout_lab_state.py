"""Do the rates, the arms and the code follow from the settings?"""

from __future__ import annotations

import numpy as np
import pytest

import gdrop_viz
from gdrop_viz import guided_dropout
from gdrop_viz.widgets.dropout_lab_state import ARMS, SCHEDULES, DropoutLabState
from tests.dropout.stand_ins import made_up_fisher


@pytest.fixture
def fisher(tiny_bert):
    return made_up_fisher(tiny_bert)


@pytest.fixture
def state(tiny_bert, fisher):
    return DropoutLabState(guided_dropout(tiny_bert, fisher), n_seeds=2, epochs=1, path="runs/x")


def test_a_bound_pushes_the_other_one_along(state):
    state.set_bounds(lower=0.2)
    assert (state.lower, state.upper) == (0.2, 0.2)
    state.set_bounds(upper=0.05)
    assert (state.lower, state.upper) == (0.05, 0.05)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lower": 0.2}, "lower <= upper"),
        ({"upper": 1.0}, "upper < 1"),
        ({"fraction": 0.0}, "data fraction"),
        ({"n_seeds": 0}, "n_seeds"),
        ({"epochs": 1.5}, "epochs"),
        ({"arms": ("sideways",)}, "got 'sideways'"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(state, setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        DropoutLabState(state.ranking, **setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_preview_shows_the_rate_of_every_site_once(state, kind, tiny_bert, fisher):
    state.set_bounds(lower=0.02)
    state.set_bounds(upper=0.2)
    state.kind = kind
    picture = state.preview()
    shown = {site: rate for series in picture.series for site, rate in zip(series.details, series.y, strict=True)}
    guided = guided_dropout(tiny_bert, fisher, lower=0.02, upper=0.2)
    expected = {
        "guided": guided,
        "same mean": guided.matched_uniform(),
        "reversed": guided.reversed(),
        "shuffled": guided.shuffled(seed=0),
    }[kind]
    assert shown.keys() == expected.rates.keys()
    np.testing.assert_allclose(list(shown.values()), [expected.rates[site] for site in shown], atol=1e-12)
    assert picture.y.bounds == (-0.03 * 0.3, 0.3)  # the markers of a rate of zero are whole
    assert [line.at for line in picture.references] == [expected.mean_rate, 0.1]
    assert f"{expected.mean_rate:.3g}" in picture.summary


def test_depth_and_kind_place_every_site(state):
    picture = state.preview()
    assert [text for _, text in picture.x.ticks] == ["emb.", "0", "1"]
    feed_forward = next(series for series in picture.series if series.label == "feed-forward")
    assert list(feed_forward.x) == [1, 2]
    assert len({series.style for series in picture.series}) == len(picture.series)


def test_arms_are_named_with_their_bounds(state):
    state.arms = ARMS
    state.set_bounds(upper=0.2)
    arms = state.prepared_arms()
    assert list(arms)[:3] == ["guided 0-0.2", "standard 0.1", "same mean 0-0.2"]
    assert arms["standard 0.1"] == 0.1
    assert arms["no dropout"] is None
    assert arms["same mean 0-0.2"].mean_rate == pytest.approx(arms["guided 0-0.2"].mean_rate)


def test_without_an_arm_the_error_says_what_to_do(state):
    state.arms = ()
    with pytest.raises(ValueError, match="choose at least one arm"):
        state.call()
    state.arms = ("sideways",)
    with pytest.raises(ValueError, match="got 'sideways'"):
        state.as_code()


@pytest.mark.parametrize("arms", [ARMS, ("standard 0.1",), ("guided",)])
def test_the_code_makes_exactly_the_call_that_run_makes(state, tiny_lm, fisher, monkeypatch, arms):
    state.arms, state.fraction, state.options = arms, 0.25, {"batch_size": 8}
    state.set_bounds(lower=0.01)
    calls = []
    monkeypatch.setattr(gdrop_viz, "compare", lambda *args, **named: calls.append((args, named)), raising=False)
    task = object()
    exec(state.as_code(), {"lm": tiny_lm, "task": task, "fisher": fisher})
    ((args, named),) = calls
    expected = state.call()
    assert args == (tiny_lm, task)
    assert list(named["arms"]) == list(expected["arms"])
    for name, arm in named.pop("arms").items():
        wanted = expected["arms"][name]
        assert getattr(arm, "rates", arm) == pytest.approx(getattr(wanted, "rates", wanted)), name
    expected.pop("arms")
    assert named == expected


def test_the_code_of_defaults_makes_their_objects_first(state):
    state.preamble = ('task = gv.load_task("sentiment")',)
    assert state.as_code().splitlines()[1] == 'task = gv.load_task("sentiment")'
