"""Do the explorer's pictures show the numbers of the Fisher results, and its code draw the same?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gdrop_viz import Fisher, FisherExplorer, fisher_information
from gdrop_viz.widgets.fisher_explorer_state import ALL, FisherExplorerState


@pytest.fixture
def fisher(tiny_bert, tiny_batches):
    return fisher_information(tiny_bert, tiny_batches, method="batched", progress=False)


@pytest.fixture
def state(fisher):
    other = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 8.0}))
    return FisherExplorerState({"bert": fisher, "gpt": other})


@pytest.mark.parametrize("by", ["layer", "component", "tensor"])
@pytest.mark.parametrize("measure", ["mean", "weighted mean", "share"])
def test_the_profile_shows_the_groups_values_with_intervals_of_the_means(state, fisher, by, measure):
    state.by, state.measure = by, measure
    (series,) = state.profile().series
    table = fisher.grouped(by)
    np.testing.assert_allclose(series.y, table[measure if by != "tensor" or measure == "share" else "mean"])
    assert (series.high is not None) == (measure == "mean")
    if measure == "mean":
        np.testing.assert_allclose(np.subtract(series.high, series.y), 1.96 * table["standard error"])


def test_several_models_share_a_relative_axis_and_normalising_makes_their_maximum_one(state):
    state.model, state.normalize = ALL, True
    bert, gpt = state.profile().series
    assert max(bert.y) == max(gpt.y) == 1.0
    assert list(gpt.y) == [0.25, 1.0]
    assert (bert.x[0], bert.x[-1]) == (0.0, 1.0)
    assert bert.style != gpt.style


def test_the_heatmap_has_the_first_layer_on_top(state, fisher):
    picture = state.heatmap()
    table = fisher.grouped("layer and component")["mean"]
    names = [text for _, text in sorted(picture.y.ticks, reverse=True)]
    assert names[0] == "emb."
    column = [text for _, text in picture.x.ticks].index("attn.")
    row = next(at for at, text in picture.y.ticks if text == "1")
    assert picture.cells.values[column][row] == pytest.approx(table["layer 1", "attention"])


def test_concentration_and_locator_answer_for_the_chosen_share(state, fisher):
    state.top = 0.1
    curve = fisher.concentration()
    mark = state.concentration().series[1]
    assert mark.y == [pytest.approx(np.interp(0.1, curve["parameters"], curve["information"]))]
    assert f"{curve.attrs['gini']:.3f}" in state.concentration().summary
    picture = state.locator()
    assert np.nansum(picture.cells.values) == pytest.approx(1.0)
    located = fisher.located(0.1)["of the top"]
    assert f"{100 * located.max():.0f} %" in picture.summary


def test_scores_per_tensor_have_no_locator_and_say_so(state):
    state.model = "gpt"
    assert "resolution" in state.locator().summary
    assert state.locator().cells is None
    assert "located" not in state.as_code()


def test_the_stability_curve_is_the_results_own(state, fisher):
    (series,) = state.stability().series
    table = fisher.stability()
    assert list(series.y) == list(table["agreement"])
    assert (list(series.low), list(series.high)) == (list(table["low"]), list(table["high"]))
    assert f"{table['agreement'].iloc[-1]:.3f}" in state.stability().summary
    state.model = "gpt"
    assert "nothing is known" in state.stability().summary


def test_scores_that_are_zero_but_for_rounding_do_not_squeeze_the_others():
    state = FisherExplorerState({"m": Fisher.from_means({"h.0.attn.w": 1.0, "h.1.attn.w": 1e-20, "h.2.attn.w": 0.0})})
    assert state.profile().y.bounds[0] > 1e-10


@pytest.mark.parametrize("model", ["bert", "gpt", ALL])
def test_the_code_runs(state, model):
    state.model = model
    exec(state.as_code(), {"fishers": state.fishers})
    plt.close("all")


def test_choosing_redraws_and_an_error_is_shown(fisher):
    explorer = FisherExplorer({"<b>bert</b>": fisher})
    before = explorer.profile_chart.content
    explorer.by.value = "component"
    assert explorer.profile_chart.content != before
    assert "by='component'" in explorer.code.code
    explorer.state.fishers["<b>bert</b>"] = None
    explorer.by.value = "tensor"
    assert "TypeError" in explorer.message.value
    assert "<b>" not in explorer.message.value
    explorer.close()


def test_nothing_to_explore_is_refused():
    with pytest.raises(ValueError, match="at least one Fisher result"):
        FisherExplorer({})
