"""Does the picture show every rate of the schedule at the right depth?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gdrop_viz import guided_dropout, uniform_dropout
from gdrop_viz.plots import dropout_rates
from tests.dropout.stand_ins import made_up_fisher
from tests.zoo import build


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def guided():
    model = build("Bert", layers=4).model
    return guided_dropout(model, made_up_fisher(model))


def drawn(ax) -> dict[str, list[float]]:
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    return {line.get_label(): [y for y in line.get_ydata() if not np.isnan(y)] for line in lines}


def test_one_line_per_kind_holds_all_rates(guided):
    ax = dropout_rates(guided)
    frame = guided.to_frame()
    assert drawn(ax) == {kind: list(part["rate"]) for kind, part in frame.groupby("kind")}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["emb.", "0", "1", "2", "3"]
    styles = {(line.get_linestyle(), line.get_marker()) for line in ax.lines[1:]}
    assert len({marker for _, marker in styles}) == 4, "no kind is told by its hue alone"
    assert ax.lines[0].get_ydata() == [guided.mean_rate] * 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("depth (layer)", "dropout rate")
    assert "mean 0.05" in ax.get_title()
    low, high = ax.get_ylim()
    assert low < 0 < 0.1 < high


def test_draws_into_given_axes(guided):
    _, ax = plt.subplots()
    assert dropout_rates(guided, ax=ax) is ax
    _, pair = plt.subplots(1, 2)
    panels = dropout_rates({"guided": guided, "reversed": guided.reversed()}, ax=pair)
    assert list(panels) == list(pair)


def test_several_schedules_share_the_rate_axis(guided):
    panels = dropout_rates({"guided": guided, "wide": guided.rescaled(upper=0.3), "even": guided.matched_uniform()})
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert panels[0].get_ylim()[1] > 0.3
    assert [panel.get_title().split(" ")[0] for panel in panels] == ["guided", "wide", "even"]
    assert sum(panel.get_legend() is not None for panel in panels) == 1


def test_encoder_and_decoder_are_apart_and_every_site_is_seen():
    model = build("T5").model
    schedule = guided_dropout(model, made_up_fisher(model))
    ax = dropout_rates(schedule)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["enc emb.", "enc 0", "enc 1", "dec emb.", "dec 0", "dec 1"]
    assert sorted(y for rates in drawn(ax).values() for y in rates) == sorted(schedule.rates.values())
    line = next(line for line in ax.lines if line.get_label() == "feed-forward")
    x, y = line.get_data()
    assert np.isnan(y).sum() == 1, "no line from the encoder to the decoder"
    present = x[~np.isnan(x)]
    assert (np.diff(present) > 0).all(), "two sites of one layer stand side by side"


def test_bad_arguments(guided):
    with pytest.raises(ValueError, match="expected at least one schedule"):
        dropout_rates({})
    with pytest.raises(ValueError, match="expected as many axes as the 2 schedules, got 1"):
        dropout_rates({"a": guided, "b": guided}, ax=[plt.gca()])


def test_uniform_schedules_and_sites_without_a_kind():
    ax = dropout_rates(uniform_dropout(build("OPT").model, 0.1))
    assert drawn(ax) == {"attention probabilities": [0.1, 0.1], "other": [0.1, 0.1]}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]
