from __future__ import annotations

import json
import random
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import gdrop_viz.finetuning.comparison as comparison_module
from gdrop_viz.dropout import uniform_dropout
from gdrop_viz.finetuning import Comparison, compare, fine_tune
from tests.unchanged import unchanged
from tests.zoo import build

ARMS = {"standard": 0.1, "none": None}
QUICK = {"epochs": 2, "learning_rate": 3e-3, "progress": False}


@pytest.fixture
def trained(monkeypatch):
    """The runs that were really trained."""
    runs = []

    def counting(lm, task, arm, seed, fraction, *args, **kwargs):
        runs.append((arm, fraction, seed))
        return run_rows(lm, task, arm, seed, fraction, *args, **kwargs)

    run_rows = comparison_module.run_rows
    monkeypatch.setattr(comparison_module, "run_rows", counting)
    return runs


def test_the_table_holds_exactly_the_single_runs(tiny_lm, toy_task):
    result = compare(tiny_lm, toy_task, ARMS, fractions=[1.0, 0.5], seeds=[0, 3], **QUICK)
    assert list(result.runs.columns) == ["arm", "fraction", "seed", "epoch", "split", "metric", "value", "seconds"]
    # arms, fractions, seeds, epochs, (train loss, accuracy, calibration error, loss)
    assert len(result.runs) == 2 * 2 * 2 * 2 * 4
    alone = fine_tune(tiny_lm, toy_task, None, seed=3, fraction=0.5, epochs=2, learning_rate=3e-3)
    runs = result.runs
    cell = runs[(runs["arm"] == "none") & (runs["fraction"] == 0.5) & (runs["seed"] == 3)]
    assert cell["value"].tolist() == alone["value"].tolist()
    assert result.metadata["complete"]
    assert result.metadata["mean_rates"] == {"standard": pytest.approx(0.1), "none": 0.0}
    assert (result.arms, result.fractions, result.metric) == (["standard", "none"], [1.0, 0.5], "accuracy")


def test_an_arm_that_draws_leaves_the_generators_alone(tiny_lm, toy_task):
    def arm(classifier):
        torch.rand(1), np.random.rand(), random.random()

    with unchanged(tiny_lm.model):
        compare(tiny_lm, toy_task, {"own": arm}, seeds=[0], fractions=[0.5], **{**QUICK, "epochs": 1})


class TestRunsAreKept:
    def test_a_second_call_trains_nothing_and_gives_the_same(self, tiny_lm, toy_task, tmp_path, trained):
        first = compare(tiny_lm, toy_task, ARMS, seeds=[0, 1], path=tmp_path, **QUICK)
        assert len(trained) == 4
        events = []
        second = compare(tiny_lm, toy_task, ARMS, seeds=[0, 1], path=tmp_path, on_event=events.append, **QUICK)
        assert len(trained) == 4
        assert first.runs.equals(second.runs)
        assert Counter(event.kind for event in events) == {"run skipped": 4, "finished": 1}
        assert [event.done_runs for event in events] == [1, 2, 3, 4, 4]

    def test_a_comparison_can_be_extended(self, tiny_lm, toy_task, tmp_path, trained):
        compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0], path=tmp_path, **QUICK)
        result = compare(tiny_lm, toy_task, {"half": 0.05, "again": 0.1}, seeds=[0, 1], path=tmp_path, **QUICK)
        assert len(trained) == 1 + 3
        assert len(result.scores()) == 4

    @pytest.mark.parametrize(
        "change", [{"epochs": 1}, {"learning_rate": 1e-3}, {"batch_size": 8}, {"weight_decay": 0.0}, {"max_length": 5}]
    )
    def test_other_settings_do_not_mix(self, tiny_lm, toy_task, tmp_path, trained, change):
        compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0], path=tmp_path, **QUICK)
        compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0], path=tmp_path, **{**QUICK, **change})
        assert len(trained) == 2

    def test_other_weights_and_other_labels_do_not_mix(self, tiny_lm, toy_task, tmp_path, trained):
        settings = {"seeds": [0], "path": tmp_path, **QUICK}
        compare(tiny_lm, toy_task, {"standard": 0.1}, **settings)
        flipped = toy_task.train.map(lambda row: {"label": 1 - row["label"]})
        compare(tiny_lm, replace(toy_task, train=flipped), {"standard": 0.1}, **settings)
        with torch.no_grad():
            tiny_lm.model.bert.embeddings.word_embeddings.weight[7] += 0.1
        compare(tiny_lm, toy_task, {"standard": 0.1}, **settings)
        assert len(trained) == 3

    def test_names_do_not_matter_and_equal_arms_are_one_run(self, tiny_lm, toy_task, tmp_path, trained):
        schedule = uniform_dropout(tiny_lm.model, 0.1)
        arms = {"rate": 0.1, "schedule": schedule, "matched": schedule.matched_uniform()}
        result = compare(tiny_lm, toy_task, arms, seeds=[0], path=tmp_path, **QUICK)
        assert len(trained) == 1
        values = result.scores().set_index("arm")["value"]
        assert values["rate"] == values["schedule"] == values["matched"]

    def test_functions_are_told_apart_by_what_they_do(self, tiny_lm, toy_task, tmp_path, trained):
        def setting(rate):
            return lambda model: uniform_dropout(model, rate).apply(model)

        arms = {"a": setting(0.1), "b": setting(0.2)}
        compare(tiny_lm, toy_task, arms, seeds=[0], path=tmp_path, **QUICK)
        compare(tiny_lm, toy_task, {"again": setting(0.2)}, seeds=[0], path=tmp_path, **QUICK)
        assert len(trained) == 2

    def test_an_interrupt_keeps_the_finished_runs(self, tiny_lm, toy_task, tmp_path, trained):
        def interrupt(event):
            if event.kind == "step" and event.done_runs == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compare(tiny_lm, toy_task, ARMS, seeds=[0, 1], path=tmp_path, on_event=interrupt, **QUICK)
        assert len(list(tmp_path.iterdir())) == 2
        assert len(Comparison.load(tmp_path).scores()) == 2
        result = compare(tiny_lm, toy_task, ARMS, seeds=[0, 1], path=tmp_path, **QUICK)
        assert len(trained) == 3 + 2
        assert result.metadata["complete"]

    def test_a_damaged_file_is_named(self, tiny_lm, toy_task, tmp_path):
        compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0], path=tmp_path, **QUICK)
        file = next(tmp_path.iterdir())
        file.write_text(file.read_text()[:-20])
        with pytest.raises(ValueError, match=f"{file.name} is not a finished run"):
            compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0], path=tmp_path, **QUICK)

    def test_the_files_say_what_they_are(self, tiny_lm, toy_task, tmp_path):
        compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[4], path=tmp_path, **QUICK)
        content = json.loads(next(tmp_path.iterdir()).read_text())
        assert content["about"] == {"arm": "standard", "model": "tiny", "task": "animals", "metric": "accuracy"}
        assert content["settings"]["seed"] == 4
        assert content["settings"]["common"]["hyperparameters"]["learning_rate"] == 3e-3


class TestStop:
    def test_finished_runs_stay_and_are_returned(self, tiny_lm, toy_task, tmp_path):
        stop, events = threading.Event(), []

        def listen(event):
            events.append(event)
            if event.kind == "step" and event.done_runs == 1:
                stop.set()

        settings = {"seeds": [0, 1], "path": tmp_path, "on_event": listen, "stop": stop, **QUICK}
        result = compare(tiny_lm, toy_task, ARMS, **settings)
        assert len(result.scores()) == len(list(tmp_path.iterdir())) == 1
        assert not result.metadata["complete"]
        assert events[-1].kind == "stopped"
        # one step of the second run was made, and no more
        assert sum(event.kind == "step" and event.arm == "none" for event in events) == 1

    def test_a_run_stopped_after_an_epoch_does_not_count_as_finished(self, tiny_lm, toy_task, tmp_path, trained):
        stop = threading.Event()

        def listen(event):
            if event.kind == "epoch" and event.epoch == 1:
                stop.set()

        settings = {"seeds": [0], "path": tmp_path, **QUICK, "epochs": 2}
        result = compare(tiny_lm, toy_task, {"a": 0.1}, on_event=listen, stop=stop, **settings)
        assert result.runs.empty
        assert list(tmp_path.iterdir()) == []
        result = compare(tiny_lm, toy_task, {"a": 0.1}, **settings)
        assert len(trained) == 2
        assert result.runs["epoch"].max() == 2

    def test_before_anything_is_trained(self, tiny_lm, toy_task):
        stop = threading.Event()
        stop.set()
        result = compare(tiny_lm, toy_task, ARMS, stop=stop, **QUICK)
        assert result.runs.empty
        assert result.summary().empty
        assert "no run is finished" in result._repr_html_()


def test_events_count_the_runs(tiny_lm, toy_task):
    events = []
    compare(tiny_lm, toy_task, ARMS, seeds=[0, 1], on_event=events.append, **QUICK)
    kinds = Counter(event.kind for event in events)
    assert kinds == {"run started": 4, "step": 4 * 12, "epoch": 8, "run finished": 4, "finished": 1}
    assert [event.done_runs for event in events if event.kind == "run finished"] == [1, 2, 3, 4]
    assert {event.total_runs for event in events} == {4}
    last = [event for event in events if event.kind == "run finished"][-1]
    assert (last.arm, last.seed, last.epoch, last.step, last.total_steps) == ("none", 1, 2, 12, 12)
    assert set(last.metrics) == {"accuracy", "calibration_error", "loss"}


def test_the_bar_counts_steps_and_names_the_run(tiny_lm, toy_task, monkeypatch):
    import gdrop_viz.finetuning.tracker as tracker

    bars = []

    def watching(**settings):
        bars.append(progress_bar(**{**settings, "show": False}))
        bars[-1].descriptions, bars[-1].steps = [], 0
        bars[-1].set_description = bars[-1].descriptions.append
        bars[-1].update = lambda n: setattr(bars[-1], "steps", bars[-1].steps + n)
        return bars[-1]

    progress_bar = tracker.progress_bar
    monkeypatch.setattr(tracker, "progress_bar", watching)
    compare(tiny_lm, toy_task, {**ARMS, "twin": 0.1}, fractions=[0.5], seeds=[0], **QUICK)
    assert bars[0].total == bars[0].steps == 3 * 6
    assert bars[0].descriptions == ["run 1 of 3 (standard, 50 %, seed 0)", "run 3 of 3 (none, 50 %, seed 0)"]


class TestErrorsComeBeforeWork:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"arms": {}}, "expected arms as a mapping of names to arms"),
            ({"arms": ["standard"]}, "expected arms as a mapping of names to arms"),
            ({"arms": {"guided": "guided"}}, "arm 'guided': expected an arm as a rate such as 0.1"),
            (
                {"arms": {"much": 1.5}},
                "arm 'much': expected an arm's rate as a number at least 0 and below 1, got 1.5",
            ),
            ({"arms": {3: 0.1}}, "expected the name of an arm as a non-empty text, got 3"),
            ({"fractions": []}, "expected fractions that differ from each other, at least one, got none"),
            ({"fractions": [1.0, 0.0]}, "each of fractions as a number above 0 and at most 1, got 0.0"),
            (
                {"fractions": [0.5, 0.5]},
                "fractions that differ from each other, at least one, got 0.5 more than once",
            ),
            ({"fractions": [0.01]}, "1 % of the 96 training examples of animals hold no example of class"),
            ({"seeds": []}, "expected seeds that differ from each other, at least one, got none"),
            ({"seeds": [0, 0]}, "expected seeds that differ from each other, at least one, got 0 more than once"),
            ({"seeds": [-1]}, "each of seeds as a whole number from 0 to"),
            ({"seeds": [0.5]}, "each of seeds as a whole number from 0 to"),
            ({"epochs": 0}, "expected epochs as a whole number of at least 1, got 0"),
            ({"threads": 0}, "expected threads as a whole number of at least 1, got 0"),
            ({"executor": "processes"}, "expected executor as a concurrent.futures.Executor, got str"),
        ],
    )
    def test_one_line(self, tiny_lm, toy_task, trained, tmp_path, settings, message):
        settings = {"seeds": [0], **QUICK, **settings}
        arms = settings.pop("arms", ARMS)
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            compare(tiny_lm, toy_task, arms, path=tmp_path / "runs", **settings)
        assert "\n" not in str(caught.value)
        assert trained == []

    def test_a_schedule_of_another_model(self, tiny_lm, toy_task, trained):
        arms = {"standard": 0.1, "foreign": uniform_dropout(build("GPT2").model, 0.1)}
        with pytest.raises(ValueError, match=r"arm 'foreign': .* make the schedule for this backbone"):
            compare(tiny_lm, toy_task, arms, **QUICK)
        assert trained == []

    def test_an_unknown_keyword(self, tiny_lm, toy_task):
        with pytest.raises(TypeError, match="lerning_rate"):
            compare(tiny_lm, toy_task, ARMS, lerning_rate=0.1)

    def test_a_path_that_is_a_file(self, tiny_lm, toy_task, tmp_path, trained):
        (tmp_path / "runs").write_text("")
        with pytest.raises(NotADirectoryError, match="is a file; name another"):
            compare(tiny_lm, toy_task, ARMS, path=tmp_path / "runs", **QUICK)
        assert trained == []

    def test_arms_that_cannot_be_told_apart(self, tiny_lm, toy_task, trained):
        class Opaque:
            def __init__(self):
                self.lock = threading.Lock()

            def __call__(self, model):
                pass

        with pytest.raises(TypeError, match="arm 'opaque': expected an arm whose content can be read"):
            compare(tiny_lm, toy_task, {"opaque": Opaque()}, **QUICK)
        assert trained == []
