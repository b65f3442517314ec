"""Is a picture what the chart and matplotlib can draw, and is everything else refused?"""

from __future__ import annotations

import base64
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gdrop_viz import Fisher
from gdrop_viz.plots.fisher import profile_picture
from gdrop_viz.plots.picture import Axis, Cells, Picture, Reference, Series
from gdrop_viz.plots.render import draw, figure
from gdrop_viz.widgets.chart import Chart, kept_bundle

X, Y = Axis("layer", (0, 2)), Axis("rate", (0, 1))


def lines(**changes) -> Picture:
    series = Series("feed-forward", [0, 1, 2], [0.1, math.nan, 0.3], low=[0, 0, 0], high=[1, 1, 1])
    return Picture(**{"title": "Rates", "summary": "It rises.", "x": X, "y": Y, "series": (series,), **changes})


def grid() -> Picture:
    values = np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]])
    cells = Cells(np.array([0.0, 2.0]), np.array([0.0, 0.5, 1.0]), values, "loss (nats)", (1, 6))
    return lines(series=(), cells=cells)


def test_json_holds_the_values_and_no_nan():
    content = json.loads(json.dumps(lines().to_json(), allow_nan=False))
    assert content["series"][0]["y"] == [0.1, None, 0.3]
    assert content["x"] == {"label": "layer", "bounds": [0, 2], "ticks": None, "log": False, "linear_below": None}
    assert grid().to_json()["cells"]["values"] == [[1.0, 2.0, None], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Axis("loss", (1, 1)), "low < high"),
        (lambda: Axis("loss", (0, 1), log=True), "0 < low"),
        (lambda: Axis("loss", (0, math.inf)), "finite"),
        (lambda: Series("a", [1, 2], [1]), "y has 1 values for 2"),
        (lambda: Series("a", [1], [1], low=[0, 0]), "low has 2"),
        (lambda: Cells([0, 1], [0], [[1]], "loss", (0, 1)), r"shape \(2, 1\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_static_figure_draws_what_the_picture_says():
    axes = figure([lines()]).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "rate")
    assert axes.get_title(loc="left") == "Rates\nIt rises."
    assert axes.get_xlim() == (0, 2)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.1, np.nan, 0.3])
    mesh = figure([grid()]).axes[0].collections[0]
    np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan), grid().cells.values.T)
    assert mesh.get_clim() == (1, 6)


def test_a_point_on_a_line_need_not_stand_in_the_legend():
    point = Series("the middle", [1], [0.5], line=False, in_legend=False)
    axes = figure([lines(series=(*lines().series, point))]).axes[0]
    assert len(axes.lines) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["feed-forward"]


def test_a_dollar_in_a_label_is_no_mathematics():
    drawn = figure([lines(title="costs $5 or $6_x")])
    drawn.canvas.draw()  # would raise on broken mathematics
    assert drawn.axes[0].get_title(loc="left").startswith(r"costs \$5 or \$6_x")


@pytest.mark.parametrize(("picture", "relief"), [(lines(), False), (grid(), False), (grid(), True)])
def test_a_chart_leaves_a_picture_and_a_sentence_in_the_notebook(picture, relief):
    data, metadata = kept_bundle([Chart(picture, relief=relief)], "name")
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == "It rises." == metadata["image/png"]["alt"]
    assert data["image/png"] in data["text/html"]


def test_what_is_kept_is_escaped():
    picture = lines(summary="<script>alert(1)</script>", title="<b>")
    data, _ = kept_bundle([Chart(picture)], "name")
    assert "<script>" not in data["text/html"]


def test_showing_replaces_everything_in_one_trait():
    chart = Chart(lines())
    changes = []
    chart.observe(changes.append)
    picture = grid()
    chart.show(picture)
    assert [change.name for change in changes] == ["content"]
    assert chart.picture is picture
    assert chart.content == picture.to_json()


def test_references_and_horizontal_intervals_are_drawn_where_they_are():
    differences = Series("guided", [0.5], [0.0], low=[0.2], high=[0.9], line=False, horizontal=True)
    axes = draw(lines(series=(differences,), references=(Reference("x", 0.25, "no difference"),)))
    assert list(axes.lines[0].get_xdata()) == [0.25, 0.25]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["no difference", "guided"]
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bar, [[0.2, 0.0], [0.9, 0.0]])
    plt.close(axes.figure)


@pytest.mark.parametrize(
    ("values", "log", "bounds"),
    [
        ([1.0, 2.0, math.nan], False, (0.94, 2.06)),
        ([3.0], False, (2.95, 3.05)),
        ([1e-20, 1.0], True, (1e-9 / 1.5, 1.5)),
        ([-1.0, 0.0], True, (-1.06, 0.06)),
        ([], False, (-0.06, 1.06)),
    ],
)
def test_an_axis_has_room_for_all_finite_values(values, log, bounds):
    axis = Axis.around("loss", values, log=log)
    assert axis.bounds == pytest.approx(bounds)
    assert axis.log == (log and max(values) > 0)


def test_the_panel_and_the_plot_show_the_same_numbers():
    """One picture per result: what matplotlib draws is what the browser gets."""
    picture = profile_picture({"": Fisher.from_means({"h.0.attn.w": 1.0, "h.1.attn.w": 3.0, "h.2.attn.w": 2.0})})
    axes = draw(picture)
    content = Chart(picture).content
    assert content["series"][0]["y"] == list(axes.lines[0].get_ydata())
    assert content["y"]["bounds"] == list(axes.get_ylim())
    assert [text for _, text in content["x"]["ticks"]] == [label.get_text() for label in axes.get_xticklabels()]
    plt.close(axes.figure)
