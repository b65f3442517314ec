"""Do the live curves follow the events, with a frame that stands still?"""

from __future__ import annotations

import math

import pytest

from gdrop_viz.finetuning.events import Event
from gdrop_viz.widgets.live_curves import LiveCurves


def step(k: int, loss: float, *, total: int = 10, done: int = 0, runs: int = 2) -> Event:
    return Event("step", "guided", 1.0, 0, k / 5, k, total, {"loss": loss}, done, runs)


def test_before_any_event_there_is_a_frame_and_a_sentence():
    curves = LiveCurves(epochs=3, arms=[])
    assert curves.picture().x.bounds == (0.0, 3.0)
    assert curves.sentence() == "No run yet."
    assert curves.share == 0.0


def test_the_x_axis_is_fixed_and_the_y_axis_only_grows():
    curves = LiveCurves(epochs=2, arms=["guided"])
    tops = []
    for k, loss in enumerate([0.5, 2.0, 0.1, math.nan, 1.0], start=1):
        curves.add(step(k, loss))
        picture = curves.picture()
        assert picture.x.bounds == (0.0, 2.0)
        tops.append(picture.y.bounds[1])
    assert tops == sorted(tops)
    assert tops[-1] == tops[1] == 2.25
    assert list(picture.series[0].x) == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_the_share_counts_finished_runs_and_the_steps_of_this_one():
    curves = LiveCurves(epochs=2, arms=["guided"])
    curves.add(step(5, 0.5, done=1))
    assert curves.share == pytest.approx((1 + 0.5) / 2)
    curves.add(Event("run finished", "guided", 1.0, 0, 2.0, 10, 10, {"loss": 0.4}, 2, 2))
    assert curves.share == 1.0


def test_validation_losses_stay_per_arm_and_training_starts_anew():
    curves = LiveCurves(epochs=2, arms=["guided", "standard"])
    for arm, loss in (("guided", 0.6), ("standard", 0.7)):
        curves.add(Event("run started", arm, 1.0, 0, total_steps=10, total_runs=2))
        curves.add(Event("step", arm, 1.0, 0, 0.5, 1, 10, {"loss": 1.0}, 0, 2))
        curves.add(Event("epoch", arm, 1.0, 0, 1.0, 5, 10, {"loss": loss, "accuracy": 0.5}, 0, 2))
    labels = {series.label: list(series.y) for series in curves.picture().series}
    assert labels == {"training, standard": [1.0], "validation, guided": [0.6], "validation, standard": [0.7]}
    assert len({series.style for series in curves.picture().series}) == 3
    assert "guided 0.6" in curves.picture().summary


def test_long_trainings_are_averaged_to_what_can_be_seen():
    curves = LiveCurves(epochs=100, arms=["guided"])
    for k in range(1000):
        curves.add(step(k, float(k % 2), total=1000))
    training = curves.picture().series[0]
    assert len(training.x) <= 150
    assert set(training.y) <= {3 / 7, 4 / 7, 0.5}  # means over seven neighbours, and the six left at the end


def test_the_sentence_tells_stops_and_what_was_found_on_disk():
    curves = LiveCurves(epochs=2, arms=["guided"])
    curves.add(Event("run skipped", "guided", 1.0, 0, 2.0, 10, 10, {}, 1, 3))
    curves.add(Event("stopped", done_runs=1, total_runs=3))
    assert curves.sentence() == "Stopped: 1 of 3 runs done (1 found on disk); finished runs are kept."
