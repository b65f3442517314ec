"""Do pictures of surfaces show the right numbers at the right place, on one scale, and say what was left out?"""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import LogNorm, to_rgb

from gdrop_viz.curvature import SpectralDensity
from gdrop_viz.landscape import Surface, Trajectory, loss_line, loss_surface
from gdrop_viz.perturbation import random_direction
from gdrop_viz.plots.landscape import (
    compare_surfaces,
    fisher_beside_hessian,
    landscape_rises,
    spectral_density,
    surface_3d,
    surface_contour,
    surface_radial,
    surface_section,
)
from gdrop_viz.studies import LandscapeFindings
from tests.conftest import random_bert

X = np.linspace(-1, 1, 11)
X[5] = 0
FACTS = {
    "label": "top 1 % of elements",
    "n_sequences": 64,
    "directions": [
        {"label": "random direction 0", "norm": 3.0, "normalize": "filter"},
        {"label": "random direction 1", "norm": 4.0, "normalize": "filter"},
    ],
}


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


def bowl(steep: float = 1.0, **settings) -> Surface:
    loss = 2 + steep * (X[:, None] ** 2 + 3 * X[None] ** 2 + X[:, None])  # not symmetric: x and y can be told apart
    return Surface(X, X, loss, metadata=FACTS, **settings)


def words(ax) -> str:
    """Everything that is written on the axes."""
    return " ".join(text.get_text() for text in [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]).replace(
        "\n", " "
    )


def test_x_runs_to_the_right():
    ax = surface_contour(bowl())
    lines = [path for collection in ax.collections for path in collection.get_paths() if len(path.vertices)]
    assert lines
    # highest loss at x = 1, y = ±1; lowest at x = -1/2, y = 0: the innermost contour lies left of the middle
    lowest = min(lines, key=lambda path: np.ptp(path.vertices[:, 0]) + np.ptp(path.vertices[:, 1]))
    assert lowest.vertices[:, 0].mean() == pytest.approx(-0.5, abs=0.1)
    assert lowest.vertices[:, 1].mean() == pytest.approx(0, abs=0.1)


def test_the_picture_says_what_it_shows():
    text = words(surface_contour(bowl()))
    for fact in (
        "top 1 % of elements",
        "multiples of random direction 0",
        "norm 3",
        "norm 4",
        "filter-normalised",
        "64 sequences",
    ):
        assert fact in text


def test_given_axes_are_used_and_returned():
    figure, axes = plt.subplots(1, 3)
    draw = (surface_contour, surface_section, surface_radial)
    for ax, function in zip(axes, draw, strict=True):
        assert function(bowl(), ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_clipping_is_stated_with_its_share():
    surface = bowl()
    ax = surface_contour(surface, clip=4.0)
    share = round(100 * (surface.loss > 4).mean())
    assert f"clipped at 4 ({share} % of points)" in words(ax)
    assert "clipped" not in words(surface_contour(surface))


def test_what_is_clipped_has_the_colour_beyond_the_last_level():
    filled = surface_contour(bowl(), clip=4.0).collections[0]
    assert filled.extend == "max"
    beyond = filled.get_paths()[-1]
    assert {(1.0, 1.0), (1.0, -1.0)} <= {tuple(vertex) for vertex in beyond.vertices.round(6)}
    assert tuple(filled.get_facecolors()[-1]) == tuple(filled.cmap(filled.norm(1e9)))


def test_a_line_between_checkpoints_says_what_its_ends_are(tiny_bert, tiny_batches):
    line = loss_line(tiny_bert, random_bert(seed=1), tiny_batches[:1], points=3, progress=False)
    assert surface_section(line.surface).get_xlabel() == "t (0: the first checkpoint, 1: the second)"


def test_diverged_points_stay_blank_and_are_counted():
    loss = bowl().loss.copy()
    loss[0, 0], loss[1, 0] = np.inf, np.nan
    ax = surface_contour(Surface(X, X, loss, metadata=FACTS))
    assert "2 points diverged (blank)" in words(ax)


def test_an_incomplete_surface_is_interpolated_and_says_so():
    whole = bowl()
    evaluated = np.zeros_like(whole.loss, dtype=bool)
    evaluated[1::4, 1::4] = True
    partial = Surface(X, X, np.where(evaluated, whole.loss, np.nan), evaluated=evaluated, metadata=FACTS)
    assert "9 of 121 points so far" in words(surface_contour(partial))
    surface_3d(partial)
    one = np.zeros_like(evaluated)
    one[5, 5] = True
    surface_contour(Surface(X, X, np.where(one, whole.loss, np.nan), evaluated=one, metadata=FACTS))


def test_panels_share_one_scale():
    surfaces = {"shallow": bowl(0.2), "steep": bowl(3.0)}
    figure = compare_surfaces(surfaces)
    limits = {ax.collections[0].get_clim() for ax in figure.axes[:2]}
    assert limits == {(min(s.loss.min() for s in surfaces.values()), max(s.loss.max() for s in surfaces.values()))}
    assert [ax.get_title() for ax in figure.axes[:2]] == ["shallow", "steep"]
    assert [bool(ax.get_ylabel()) for ax in figure.axes[:2]] == [True, False]  # said once
    heights = {ax.get_zlim() for ax in compare_surfaces(surfaces, kind="3d").axes[:2]}
    assert len(heights) == 1
    logarithmic = compare_surfaces(surfaces, log=True)
    assert all(isinstance(ax.collections[0].norm, LogNorm) for ax in logarithmic.axes[:2])


@pytest.mark.parametrize("kind", ["contour", "3d", "section", "radial"])
def test_every_kind_is_drawn(kind):
    figure = compare_surfaces({"a": bowl(), "b": bowl(2.0)}, kind=kind)
    figure.canvas.draw()
    assert figure.axes


def test_curves_differ_in_style_as_well_as_in_hue():
    ax = surface_section({"a": bowl(), "b": bowl(2.0), "c": bowl(3.0)})
    curves = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({line.get_linestyle() for line in curves}) == 3
    assert len({to_rgb(line.get_color()) for line in curves}) == 3
    np.testing.assert_array_equal(curves[0].get_ydata(), bowl().loss[:, 5])


def test_the_band_of_a_rise_is_that_of_paired_differences():
    rng = np.random.default_rng(0)
    sequences = rng.normal(5, 2, size=50) + X[:, None] ** 2
    line = Surface(X, None, sequences.mean(-1), sequences.std(-1, ddof=1) / np.sqrt(50), sequences, metadata=FACTS)

    def width(ax):
        return np.ptp(next(path.vertices[:, 1] for path in ax.collections[0].get_paths()))

    assert width(surface_section(line, rise=True)) == pytest.approx(1, abs=1e-6)  # the band has no width of its own
    assert width(surface_section(line)) > 1.1
    assert surface_contour(line).get_ylabel().startswith("loss")  # a line is drawn as a line


def test_distance_takes_the_directions_norms():
    surface = bowl()
    plain = surface_radial(surface).lines[0].get_xdata()
    np.testing.assert_allclose(surface_radial(surface, distance=True).lines[0].get_xdata(), 3.5 * np.asarray(plain))
    with pytest.raises(ValueError, match="norms"):
        surface_radial(Surface(X, X, surface.loss), distance=True)


def test_a_trajectory_lies_where_its_coordinates_say():
    path = Trajectory(
        np.array([[0.9, 0.5], [0.3, 0.2], [0.0, 0.0]]), np.array([2.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    )
    ax = surface_contour(bowl(), trajectory=path)
    assert any(np.array_equal(np.column_stack(line.get_data()), path.coordinates) for line in ax.lines)
    assert "the plane holds 80 % of the path" in words(ax)


def test_the_density_is_drawn_from_its_frame():
    density = SpectralDensity(np.array([[0.0, 1.0, 5.0]]), np.array([[0.7, 0.2, 0.1]]), 100, "all parameters")
    ax = spectral_density(density)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), density.to_frame()["density"])
    assert ax.get_yscale() == "log"
    assert "1 probes x 3 Lanczos steps" in words(ax)


@pytest.fixture
def findings() -> LandscapeFindings:
    rises = [
        {"model": model, "comparison": comparison, "moved": moved, "seed": seed, "norm": 1.0, "step": 1.0,
         "rise": rise + 0.1 * seed, "standard_error": 0.1}
        for model in ("one", "two") for comparison in ("equal", "own")
        for moved, rise in (("the top", 2.0), ("the rest", -0.3)) for seed in range(3)
    ]  # fmt: skip
    curvature = [
        {"model": model, "by": "rank of the score", "group": str(k), "elements": 10, "trace": trace,
         "standard_error": 1.0, "fisher": 10.0 ** -k}
        for model in ("one", "two") for k, trace in enumerate((40.0, 3.0, -1.0))
    ]  # fmt: skip
    settings = {"one": {"words_per_sequence": 4.0}, "two": {"words_per_sequence": 60.0}}
    return LandscapeFindings(pd.DataFrame(rises), pd.DataFrame(curvature), settings, pd.DataFrame())


def test_every_direction_of_every_finding_is_drawn(findings):
    figure = landscape_rises(findings)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["equal", "own"]
    dots = [dots for dots in figure.axes[0].collections if len(getattr(dots, "get_sizes", list)())]
    drawn = np.concatenate([one.get_offsets()[:, 0] for one in dots])
    part = findings.rises[findings.rises["comparison"] == "equal"]
    assert sorted(part["rise"].round(9)) == sorted(np.round(drawn.astype(float), 9))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["the top", "the rest"]


def test_means_stand_beside_the_line_of_independent_words(findings):
    ax = fisher_beside_hessian(findings)
    thin = [line for line in ax.lines if line.get_gid() == "words per sequence"]
    np.testing.assert_allclose(thin[1].get_ydata(), 60 * np.asarray(thin[1].get_xdata()))
    np.testing.assert_allclose(thin[0].get_xdata(), [0.1, 0.01])  # the third trace is negative
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["one (4.0 words)", "two (60.0 words)"]
    assert "2 negative left out" in words(ax)
    # a thin line has its model's colour
    assert [line.get_color() for line in thin] == [container.lines[0].get_color() for container in ax.containers]


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_text_stands_out_from_the_page(style):
    with plt.style.context(style):
        for ax in (surface_contour(bowl()), surface_3d(bowl()), surface_section(bowl()), surface_radial(bowl())):
            page = np.mean(to_rgb(ax.figure.get_facecolor()))
            for text in (*ax.texts, ax.title, ax.xaxis.label, *ax.get_xticklabels()):
                assert abs(np.mean(to_rgb(text.get_color())) - page) > 0.5


def test_the_loss_axis_names_the_unit_of_this_loss():
    """A classifier's loss has no predicted tokens, and surfaces of several kinds no common unit."""
    units = {"words": "nats per predicted token", "classes": "nats", "rates": "squared label units", "own": ""}
    kinds = {name: replace(bowl(), metadata={**FACTS, "unit": unit}) for name, unit in units.items()}
    for name, unit in units.items():
        wanted = f"loss ({unit})" if unit else "loss"
        for draw in (surface_contour, surface_3d):
            assert draw(kinds[name]).figure.axes[-1].get_ylabel() == wanted  # of the colour bar
        for draw in (surface_section, surface_radial):
            assert draw(kinds[name]).get_ylabel() == wanted
            assert draw(kinds[name], rise=True).get_ylabel() == "rise of the " + wanted
    assert surface_section(kinds).get_ylabel() == "loss"
    assert surface_section(bowl()).get_ylabel() == "loss (nats)"  # a file from before
    assert (
        compare_surfaces({"a": kinds["words"], "b": kinds["words"]}).axes[-1].get_ylabel() == f"loss ({units['words']})"
    )
    assert compare_surfaces({k: kinds[k] for k in ("words", "classes")}).axes[-1].get_ylabel() == "loss"


def test_a_surface_knows_the_unit_of_its_loss(tiny_bert, tiny_batches):
    from transformers import BertForSequenceClassification

    def unit_of(model, batch, **settings):
        way = random_direction(model, seed=0)
        return loss_surface(model, [batch], way, points=3, progress=False, **settings).metadata["unit"]

    batch = tiny_batches[0]
    assert unit_of(tiny_bert, batch) == "nats per predicted token"
    assert unit_of(tiny_bert, batch, loss=lambda outputs, batch: outputs.logits.mean((1, 2))) == ""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    classes = torch.arange(len(batch["labels"])) % 2
    classifier = BertForSequenceClassification(tiny_bert.config)
    assert unit_of(classifier, {**inputs, "labels": classes}) == "nats"
    tiny_bert.config.num_labels = 1
    regression = BertForSequenceClassification(tiny_bert.config)
    assert unit_of(regression, {**inputs, "labels": classes.float()}) == "squared label units"


def test_bad_arguments_are_named():
    line = Surface(X, None, X**2)
    with pytest.raises(ValueError, match="surface_section"):
        surface_3d(line)
    with pytest.raises(ValueError, match="3-D axes"):
        surface_3d(bowl(), ax=plt.figure().add_subplot())
    with pytest.raises(ValueError, match="log=False"):
        surface_contour(Surface(X, X, np.zeros((11, 11)) - 1), log=True)
    with pytest.raises(ValueError, match="clip above"):
        surface_contour(bowl(), clip=0.0)
    with pytest.raises(ValueError, match="nothing can be drawn"):
        surface_contour(Surface(X, X, np.full((11, 11), np.nan)))
    with pytest.raises(ValueError, match="expected kind to be one of"):
        compare_surfaces({"a": bowl()}, kind="heatmap")
    with pytest.raises(ValueError, match="name -> Surface"):
        compare_surfaces({})
