"""Does the lab preview, train in the background, stop, keep what is finished, and find it again?"""

from __future__ import annotations

import threading
import time

import pytest

from gdrop_viz import DropoutLab
from gdrop_viz.finetuning import compare
from tests.dropout.stand_ins import made_up_fisher
from tests.finetuning.conftest import animal_rows
from tests.unchanged import differences, snapshot


@pytest.fixture(scope="module")
def task():
    from gdrop_viz.text.tasks import Task

    return Task("animals", train=animal_rows(32, seed=0), validation=animal_rows(16, seed=1))


@pytest.fixture
def make_lab(tiny_lm, task, tmp_path):
    labs = []

    def make(**settings):
        settings = {"n_seeds": 1, "epochs": 1, "arms": ("guided", "standard 0.1"), "batch_size": 8, **settings}
        labs.append(DropoutLab(tiny_lm, task, made_up_fisher(tiny_lm.model), path=tmp_path / "runs", **settings))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()
        lab.runner.wait(30)


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_moving_a_slider_redraws_all_rates_and_the_code(make_lab):
    lab = make_lab()
    seen = []
    lab.preview_chart.observe(lambda change: seen.append(change.new), "content")
    lab.upper.value = 0.2
    assert len(seen) == 1
    assert max(max(series["y"]) for series in seen[0]["series"]) == pytest.approx(0.2)
    assert "upper=0.2" in lab.code.code
    lab.lower.value = 0.25
    assert lab.upper.value == 0.25
    lab.kind.value = "reversed"
    assert "reversed" in lab.preview_chart.picture.title


def test_the_sliders_reach_what_the_caller_asked_for(make_lab):
    lab = make_lab(fraction=0.01, n_seeds=40, upper=0.6)
    assert (lab.fraction.value, lab.seeds.value, lab.upper.value) == (0.01, 40, 0.6)


def test_run_trains_the_arms_and_shows_intervals_and_verdict(make_lab, tiny_lm, task):
    lab = make_lab(n_seeds=2)
    lab.run_button.click()
    assert lab.run_button.disabled
    assert not lab.stop_button.disabled
    assert lab.runner.wait(120)
    assert lab.last_error is None
    assert "Finished: 4 of 4 runs done." in lab.progress.value
    assert not lab.run_button.disabled
    expected = compare(tiny_lm, task, **lab.state.call(), progress=False)
    assert lab.result.summary().equals(expected.summary())
    series = {one.label: one for one in lab.result_chart.picture.series if not one.faint}
    assert list(series) == ["guided 0-0.1", "standard 0.1"]
    row = expected.summary().set_index("arm").loc["guided 0-0.1"]
    assert (series["guided 0-0.1"].y, series["guided 0-0.1"].low) == ([100 * row["mean"]], [100 * row["low"]])
    assert expected.verdict("guided 0-0.1", "standard 0.1").split(":")[0] in lab.verdict.value
    assert any(one.label.startswith("validation") for one in lab.curves_chart.picture.series)


def test_stop_keeps_finished_runs_and_the_next_run_takes_them(make_lab):
    lab = make_lab(n_seeds=20, epochs=2)
    lab.run()
    wait_until(lambda: " 1 of 40 runs done" in lab.progress.value or not lab.runner.running, 120)
    lab.stop_button.click()
    assert lab.stop_button.disabled
    assert lab.runner.wait(30)
    assert "Stopped" in lab.progress.value
    finished = lab.result.runs.drop_duplicates(["arm", "seed"])
    assert 1 <= len(finished) < 40

    again = make_lab(n_seeds=1, epochs=2, arms=("guided",))
    assert again.result.arms == lab.result.arms  # found on disk before anything is run
    assert "No finished run yet" not in again.result_chart.picture.summary
    again.run()
    assert again.runner.wait(60)
    assert "(1 found on disk)" in again.progress.value


def test_stop_ends_the_training_after_the_step_that_it_is_in(make_lab, monkeypatch):
    lab = make_lab(n_seeds=20, epochs=2)
    kinds = []

    def add(curves, event):
        kinds.append(event.kind)
        if event.kind == "step":
            lab.stop_button.click()

    monkeypatch.setattr("gdrop_viz.widgets.live_curves.LiveCurves.add", add)
    lab.run()
    assert lab.runner.wait(60)
    assert kinds == ["run started", "step", "stopped"]


def test_results_of_other_settings_are_not_mixed_in(make_lab):
    lab = make_lab()
    lab.run()
    assert lab.runner.wait(60)
    assert make_lab(epochs=2).result is None
    assert make_lab(batch_size=4).result is None
    lab = make_lab()
    assert lab.result is not None
    assert "Mean over 1 seed at" in lab.result_chart.picture.summary
    lab.epochs.value = 2
    assert (lab.result, lab.verdict.value) == (None, "")
    assert "No finished run of 2 epochs yet." in lab.result_chart.picture.summary
    lab.epochs.value = 1
    assert lab.result is not None
    assert lab.verdict.value


def test_errors_of_a_run_and_of_a_click_are_shown(make_lab):
    lab = make_lab(learning_rate=-1.0)
    lab.run_button.click()
    assert lab.runner.wait(60)
    assert "expected learning_rate as a number above 0" in lab.message.value
    assert "ended with an error" in lab.progress.value
    assert not lab.run_button.disabled
    for box in lab.arms.values():
        box.value = False
    lab.run_button.click()
    assert "choose at least one arm" in lab.message.value


def test_closing_the_lab_ends_its_thread(make_lab):
    lab = make_lab(n_seeds=20, epochs=3)
    lab.run()
    lab.close()
    assert lab.runner.wait(60)
    assert not any(thread.name == "gdrop_viz run" for thread in threading.enumerate())


def test_the_model_is_left_alone(make_lab, tiny_lm):
    before = snapshot(tiny_lm.model)
    lab = make_lab()
    lab.run()
    assert lab.runner.wait(60)
    assert [name for name in differences(before, snapshot(tiny_lm.model)) if name.startswith("model")] == []
