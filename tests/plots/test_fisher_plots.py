"""Do the Fisher pictures show the numbers of the results, labelled and told apart without hue?"""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from gdrop_viz import Fisher, fisher_information
from gdrop_viz.plots import fisher_concentration, fisher_heatmap, fisher_profile
from gdrop_viz.plots.fisher import concentration_picture


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def fisher(tiny_bert, tiny_batches):
    return fisher_information(tiny_bert, tiny_batches, method="batched", progress=False)


def given(*means: float) -> Fisher:
    return Fisher.from_means(pd.Series({f"h.{k}.attn.c_attn.weight": mean for k, mean in enumerate(means)}))


def test_the_profile_shows_the_groups_in_order_with_intervals(fisher):
    ax = fisher_profile(fisher, by="layer")
    table = fisher.grouped("layer")
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), table["mean"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(table.index)
    bars = ax.containers[0].lines[2][0].get_segments()
    half_widths = [(segment[1][1] - segment[0][1]) / 2 for segment in bars]
    np.testing.assert_allclose(half_widths, 1.96 * table["standard error"], rtol=1e-6)


def test_several_models_share_one_normalised_axis_and_differ_by_more_than_hue():
    ax = fisher_profile({"small": given(1.0, 4.0), "large": given(3.0, 2.0, 1.0)})
    lines = [container.lines[0] for container in ax.containers]
    np.testing.assert_allclose(lines[0].get_ydata(), [0.25, 1.0])
    np.testing.assert_allclose(lines[1].get_xdata(), [0.0, 0.5, 1.0])
    assert len({line.get_linestyle() for line in lines}) == 2
    assert len({line.get_marker() for line in lines}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["small", "large"]
    assert ax.get_ylabel().endswith("/ maximum")


def test_the_heatmap_leaves_absent_places_blank_and_keeps_the_order(fisher):
    ax = fisher_heatmap(fisher, measure="share", log=False)
    table = fisher.grouped("layer and component")["share"]
    shown = ax.collections[0].get_array().reshape(len(ax.get_yticks()), len(ax.get_xticks()))
    assert shown.sum() == pytest.approx(1.0)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(dict.fromkeys(table.index.get_level_values(0)))
    assert int((~np.ma.getmaskarray(shown)).sum()) == len(table)


def test_the_concentration_curve_carries_gini_and_mark(fisher):
    ax = fisher_concentration(fisher, at=0.1)
    curve = fisher.concentration()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curve["information"])
    assert f"Gini {curve.attrs['gini']:.2f}" in ax.get_legend().get_texts()[0].get_text()
    expected = np.interp(0.1, curve["parameters"], curve["information"])
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0.1, expected]])


def test_parameters_and_whole_tensors_are_never_in_one_chart(fisher):
    """Whole tensors average over their parameters, so that their concentration is understated."""
    whole = replace(fisher, scores=None, resolution="tensor")
    for pair in ({"a": fisher, "b": whole}, {"a": whole, "b": fisher, "c": fisher}):
        picture = concentration_picture(pair, at=0.1)
        curves = [series for series in picture.series if not series.label.startswith(("spread", "a, ", "b, ", "c, "))]
        assert len(curves) == len(pair)
        for curve in curves:
            np.testing.assert_array_equal(curve.y, whole.concentration()["information"])
        assert "whole tensors, for not every model here has a score per parameter" in picture.note
    alone = concentration_picture({"a": fisher, "b": fisher}, at=0.1)
    np.testing.assert_array_equal(alone.series[0].y, fisher.concentration()["information"])
    assert "whole tensors" not in alone.note + alone.summary


@pytest.mark.parametrize("draw", [fisher_profile, fisher_heatmap, fisher_concentration])
def test_each_draws_on_the_axes_it_is_given_and_labels_them(draw, fisher):
    _, ax = plt.subplots()
    assert draw(fisher, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    ax.figure.canvas.draw()


def test_a_zero_score_and_a_single_value_can_be_drawn():
    for one in (given(0.0, 1.0), given(2.0), given(0.0, 0.0)):
        fisher_heatmap(one).figure.canvas.draw()
        fisher_profile(one, log=True).figure.canvas.draw()
        fisher_concentration(one, log=True).figure.canvas.draw()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fisher_profile(given(1.0), measure="median"), "expected measure to be one of"),
        (lambda: fisher_heatmap(given(1.0), measure="median"), "expected measure to be one of"),
        (lambda: fisher_profile({}), "at least one"),
        (lambda: fisher_concentration({}), "at least one"),
        (lambda: fisher_profile(given(1.0), by="word"), "by to be one of"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
