from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from gdrop_viz.finetuning import Comparison
from gdrop_viz.finetuning.run_table import COLUMNS
from gdrop_viz.plots.finetuning import comparison, paired_differences, training_curves

ARMS = ("standard", "guided", "none")


def made_up(seeds=4, metric="accuracy"):
    rng = np.random.default_rng(0)
    rows = [
        (arm, fraction, seed, epoch, split, name, rng.normal(0.7, 0.05), 1.0)
        for seed in range(seeds)
        for fraction in (1.0, 0.25)
        for arm in ARMS
        for epoch in (1, 2)
        for split, name in (("validation", metric), ("validation", "loss"), ("train", "loss"))
    ]
    return Comparison(pd.DataFrame(rows, columns=COLUMNS), metric=metric, metadata={"task": "toy", "model": "m"})


@pytest.fixture
def result():
    yield made_up()
    plt.close("all")


def drawn(ax):
    """label -> (x, y, low, high) of every series with error bars."""
    series = {}
    for container in ax.containers:
        line, _, bars = container
        ends = np.array([segment for bar in bars for segment in bar.get_segments()])
        series[container.get_label()] = (line.get_xdata(), line.get_ydata(), ends)
    return series


def test_comparison_shows_the_summary(result):
    ax = comparison(result)
    summary = result.summary()
    for arm, (_, y, ends) in drawn(ax).items():
        rows = summary[summary["arm"] == arm].sort_values("fraction")
        np.testing.assert_allclose(y, 100 * rows["mean"])
        np.testing.assert_allclose(ends[:, 0, 1], 100 * rows["low"])
        np.testing.assert_allclose(ends[:, 1, 1], 100 * rows["high"])
    runs = np.concatenate(
        [dots.get_offsets() for dots in ax.collections if hasattr(dots, "get_sizes") and len(dots.get_sizes())]
    )
    assert len(runs) == 4 * 2 * 3
    np.testing.assert_allclose(np.sort(runs[:, 1]), np.sort(100 * result.scores()["value"]))
    assert ax.get_xlabel() == "share of the training data"
    assert (ax.get_title(), ax.texts[0].get_text()) == ("toy, m", "mean and 95 % interval, 4 seeds")


def test_paired_differences_show_the_paired_tests(result):
    ax = paired_differences(result, baseline="guided")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["standard", "none"]
    x = {round(value, 9) for container in ax.containers for value in container[0].get_xdata()}
    expected = {round(100 * mean, 9) for arm in ("standard", "none") for mean in result.paired(arm, "guided")["mean"]}
    assert x == expected
    assert ax.lines[0].get_xdata() == [0.0, 0.0]  # the line of no difference


def test_training_curves_show_the_history(result):
    ax = training_curves(result, split="train", fraction=0.25)
    history = result.history(split="train")
    for arm, (_, y, _) in drawn(ax).items():
        rows = history[(history["arm"] == arm) & (history["fraction"] == 0.25)]
        np.testing.assert_allclose(y, rows["mean"])
    assert ax.get_ylabel() == "training loss (nats)"
    assert "25 % of the data" in ax.get_title()


def test_arms_differ_in_more_than_hue(result):
    ax = training_curves(result)
    lines = [container[0] for container in ax.containers]
    assert len({line.get_marker() for line in lines}) == len(ARMS)
    assert len({line.get_color() for line in lines}) == len(ARMS)


def test_single_seeds_are_drawn_without_interval():
    ax = comparison(made_up(seeds=1))
    assert ax.texts[0].get_text() == "one seed, so no interval"
    assert all(np.isfinite(y).all() for _, y, _ in drawn(ax).values())
    plt.close("all")


@pytest.mark.parametrize("draw", [comparison, paired_differences, training_curves])
def test_they_draw_where_they_are_told_and_follow_the_style(result, draw):
    plt.close("all")
    with plt.style.context("dark_background"):
        _, ax = plt.subplots()
        assert draw(result, ax=ax) is ax
        assert to_rgb(ax.xaxis.label.get_color()) == (1.0, 1.0, 1.0)
        assert plt.get_fignums() == [ax.figure.number]


def test_errors(result):
    with pytest.raises(
        ValueError, match=r"baseline must be one of several arms \(standard, guided, none\), got 'gided'"
    ):
        paired_differences(result, baseline="gided")
    with pytest.raises(ValueError, match=r"expected fraction to be one of 1.0, 0.25, got 0.5"):
        training_curves(result, fraction=0.5)
    with pytest.raises(ValueError, match="no finished run"):
        comparison(Comparison(result.runs.iloc[:0], metric="accuracy"))
    with pytest.raises(ValueError, match="expected metric to be one of 'accuracy', 'loss', got 'f1'"):
        comparison(result, "f1")
