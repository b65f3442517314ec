"""Does the explorer compute what is missing, show what is known at once, and keep what a stop leaves?"""

from __future__ import annotations

import threading
from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gdrop_viz import LandscapeExplorer, Surface, fisher_information
from gdrop_viz.landscape import evaluation, proposed_extent
from gdrop_viz.landscape.surface import surface_path


@pytest.fixture
def make(tiny_lm, tiny_batches, tmp_path):
    fisher = fisher_information(tiny_lm.model, tiny_batches, method="batched", progress=False)
    made = []

    def make(**settings):
        settings = {"points": 5, "k": 0.1, **settings}
        made.append(LandscapeExplorer(tiny_lm, fisher, tiny_batches, path=tmp_path, **settings))
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()
        explorer.runner.wait(30)


@pytest.fixture
def explored(make):
    explorer = make()
    explorer.run_button.click()
    assert explorer.runner.wait(60)
    assert explorer.last_error is None
    return explorer


def test_both_surfaces_are_computed_and_share_one_scale(explored, tiny_lm):
    state = explored.state
    assert state.missing() == []
    left, right = (chart.picture for chart in explored.charts)
    assert (left.title, right.title) == ("top 10 % of elements", "random 10 % of elements")
    assert left.cells.bounds == right.cells.bounds
    losses = np.concatenate([surface.loss.ravel() for surface in state.surfaces.values()])
    assert left.cells.bounds == (losses.min(), losses.max())
    assert "mean of 10 sequences; 25 of 25 points" in left.summary
    assert "Both surfaces are known." in explored.progress.value


def test_the_code_computes_the_same_surfaces(explored, tiny_lm, tiny_batches):
    explored.same_distance.value = True
    explored.run()
    assert explored.runner.wait(60)
    names = {"lm": tiny_lm, "fisher": explored.fisher, "batches": tiny_batches}
    exec(explored.state.as_code(), names)
    plt.close("all")
    assert list(names["surfaces"]) == list(explored.state.panels)
    for label, surface in names["surfaces"].items():
        np.testing.assert_array_equal(surface.loss, explored.state.surfaces[label].loss)
    norms = [[d["norm"] for d in surface.metadata["directions"]] for surface in names["surfaces"].values()]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)


def test_a_new_session_finds_the_surfaces_and_other_settings_do_not(explored, make):
    again = make()
    assert again.state.missing() == []
    assert again.charts[0].picture.cells is not None
    again.radius.value = 0.5
    assert len(again.state.missing()) == 2
    assert "press Run" in again.charts[0].picture.summary
    again.radius.value = 1.0
    assert again.state.missing() == []


def test_surfaces_of_another_model_are_not_shown(explored, make, tiny_lm):
    next(tiny_lm.model.parameters()).data.add_(1.0)
    assert len(make().state.missing()) == 2


@pytest.mark.parametrize("other", ["text", "scores", "weights"])
def test_surfaces_of_another_text_or_other_scores_are_not_shown(explored, tiny_lm, tiny_batches, tmp_path, other):
    fisher, lm, batches = explored.fisher, tiny_lm, [dict(batch) for batch in tiny_batches]
    again = LandscapeExplorer(lm, fisher, batches, path=tmp_path, points=5, k=0.1)
    assert again.state.missing() == []  # the same text in another container
    if other == "text":
        batches[0] = {**batches[0], "input_ids": batches[0]["input_ids"].roll(1, 0)}  # as many, of the same shapes
    elif other == "scores":
        fisher = replace(fisher, scores={name: score.flip(0) for name, score in fisher.scores.items()})
    else:
        lm = replace(lm, model=deepcopy(lm.model))
        next(lm.model.parameters()).data.add_(1e-3)
    changed = LandscapeExplorer(lm, fisher, batches, path=tmp_path, points=5, k=0.1)
    assert len(changed.state.missing()) == 2
    for explorer in (again, changed):
        explorer.close()


def test_stop_keeps_the_points_and_run_goes_on_from_there(make):
    explorer = make(points=15)
    reached = threading.Event()
    explorer.charts[0].observe(lambda change: reached.set(), "content")
    explorer.run()
    assert reached.wait(60)
    explorer.stop_button.click()
    assert explorer.runner.wait(10)
    label = explorer.state.panels[0]
    kept = Surface.load(surface_path(explorer.state.folder, label))
    assert 0 < kept.n_evaluated < kept.n_points
    shown = explorer.charts[0].picture
    assert np.isfinite(np.asarray(shown.cells.values)).all()  # the nearest known points stand in for the others
    assert f"{kept.n_evaluated} of 225 points" in shown.summary
    explorer.run()
    assert explorer.runner.wait(120)
    whole = explorer.state.surfaces[label]
    assert whole.is_complete
    np.testing.assert_array_equal(whole.loss[kept.evaluated], kept.loss[kept.evaluated])


def test_the_cursor_cuts_both_surfaces(explored):
    explored.charts[0].cursor = [1, 3]
    picture = explored.section_chart.picture
    surface = explored.state.surfaces[explored.state.panels[0]]
    np.testing.assert_array_equal(picture.series[0].y, surface.loss[:, 3])
    np.testing.assert_array_equal(picture.series[1].y, surface.loss[1])
    assert len(picture.series) == 4
    assert len({series.style for series in picture.series}) == 4
    assert f"x = {surface.x[1]:.3g}, y = {surface.y[3]:.3g}" in picture.title


def test_an_even_number_of_points_becomes_odd_and_relief_turns_both_charts(make):
    explorer = make()
    explorer.points.value = 8
    assert explorer.state.points == explorer.points.value == 9  # what is computed is what is shown
    explorer.points.value = 61
    assert explorer.state.points == 61
    explorer.relief.value = True
    assert all(chart.relief for chart in explorer.charts)


def test_the_proposed_radius_shows_basin_and_walls_of_both_panels(make, tiny_lm, tiny_batches):
    explorer = make(k=0.5, radius=0.05)
    explorer.propose_button.click()
    assert explorer.runner.wait(60)
    assert explorer.last_error is None
    planes = explorer.state.planes(tiny_lm.model, explorer.fisher).values()
    expected = max(proposed_extent(tiny_lm.model, tiny_batches, directions) for directions in planes)
    assert explorer.state.radius == explorer.radius.value == expected


@pytest.mark.parametrize("button", ["run_button", "propose_button"])
def test_stop_ends_the_work_before_its_next_batch(make, monkeypatch, button):
    explorer = make(k=0.5)
    asked, seen = threading.Event(), []
    real = evaluation.sequence_losses

    def slow(model, batch, **options):
        seen.append(len(batch))
        if len(seen) > 5:
            asked.set()
            assert explorer.runner._stop.wait(30)
        return real(model, batch, **options)

    monkeypatch.setattr(evaluation, "sequence_losses", slow)
    getattr(explorer, button).click()
    assert asked.wait(30)
    explorer.stop_button.click()
    assert explorer.runner.wait(30)
    assert len(seen) == 6
    assert explorer.last_error is None
    assert explorer.radius.value == 1.0


def test_elements_of_tensor_scores_are_an_error_in_the_panel(tiny_lm, tiny_batches, tmp_path):
    fisher = fisher_information(tiny_lm.model, tiny_batches, resolution="tensor", method="batched", progress=False)
    explorer = LandscapeExplorer(tiny_lm, fisher, tiny_batches, path=tmp_path, points=3)
    assert explorer.by.value == "tensor"
    explorer.by.value = "element"
    explorer.run()
    assert explorer.runner.wait(30)
    assert 'role="alert"' in explorer.message.value
    explorer.close()


def test_the_callers_model_never_moves(make, tiny_lm):
    explorer = make(points=15)
    before = {name: tensor.clone() for name, tensor in tiny_lm.model.state_dict().items()}
    moved = []

    def look(change):
        moved.append(not all(tensor.equal(before[name]) for name, tensor in tiny_lm.model.state_dict().items()))

    explorer.charts[0].observe(look, "content")
    explorer.run()
    assert explorer.runner.wait(60)
    assert moved
    assert not any(moved)
