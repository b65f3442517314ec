from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import get_linear_schedule_with_warmup

from gdrop_viz.dropout import uniform_dropout
from gdrop_viz.finetuning import GaussianArm, Hyperparameters, WeightDecayArm, build_classifier, fine_tune
from gdrop_viz.finetuning.encoding import PaddedBatches, encode
from gdrop_viz.finetuning.hyperparameters import default_learning_rate
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.sites import measured_dropout
from gdrop_viz.text.tasks import Task
from tests.conftest import word_tokenizer
from tests.finetuning.conftest import LEARNING, animal_rows
from tests.unchanged import unchanged
from tests.zoo import build


def value(table, metric, split="validation", epoch=-1):
    return table.loc[(table["metric"] == metric) & (table["split"] == split), "value"].iloc[epoch]


@pytest.fixture
def watched(monkeypatch):
    """Every classifier that a run trains, with the input ids and labels of every training batch it saw."""
    from gdrop_viz.finetuning import train

    seen = []

    def building(*args, **kwargs):
        classifier = build_classifier(*args, **kwargs)
        batches = []

        def remember(module, args, kwargs):
            if module.training and "labels" in kwargs:
                batches.append((kwargs["input_ids"].clone(), kwargs["labels"].clone()))

        classifier.register_forward_pre_hook(remember, with_kwargs=True)
        first = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
        seen.append((classifier, batches, first))
        return classifier

    monkeypatch.setattr(train, "build_classifier", building)
    return seen


def test_it_learns(tiny_lm, toy_task):
    table = fine_tune(tiny_lm, toy_task, 0.0, **LEARNING)
    assert value(table, "accuracy") > 0.9
    assert value(table, "loss", "train") < value(table, "loss", "train", epoch=0)
    assert table["epoch"].unique().tolist() == [1, 2, 3, 4]
    assert table["seconds"].is_monotonic_increasing


@pytest.mark.parametrize("name", ["GPT2", "T5"])
def test_other_families_learn_too(name, toy_task):
    case = build(name)
    lm = Pretrained(case.model, word_tokenizer(), objective=case.objective)
    table = fine_tune(lm, toy_task, 0.0, epochs=3, learning_rate=3e-3, batch_size=4)
    assert value(table, "loss", "train") < 0.9 * value(table, "loss", "train", epoch=0)


def test_regression(tiny_lm):
    def rows(count, seed):
        classes = animal_rows(count, seed)
        return classes.remove_columns("label").add_column("label", [3.0 * label - 1.0 for label in classes["label"]])

    task = Task("animals", rows(96, 0), rows(40, 1), kind="regression", n_labels=1, metrics=("pearson", "mse"))
    table = fine_tune(tiny_lm, task, None, **LEARNING)
    assert {"pearson", "mse", "loss"} == set(table.loc[table["split"] == "validation", "metric"])
    # the loss of a regression is the mean squared error, computed once by the model and once by the metric
    assert value(table, "mse") == pytest.approx(value(table, "loss"), rel=1e-5)
    assert value(table, "pearson") > 0.5


def test_the_numbers_are_those_of_a_plain_loop(tiny_lm, toy_task):
    """AdamW, warm-up, decay, clipping and length-grouped batches against the same written out in PyTorch."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    settings = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 8, "weight_decay": 0.1, "warmup": 0.25}
    table = fine_tune(tiny_lm, toy_task, None, seed=5, **settings)

    rows = encode(tiny_lm, toy_task.train, max_length=512)
    model = build_classifier(tiny_lm, toy_task, seed=5)
    uniform_dropout(model, 0.0).apply(model)
    decayed = [p for name, p in model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    kept = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}], 3e-3
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 6, 24)
    sampler = LengthGroupedSampler(
        8, lengths=[len(row["input_ids"]) for row in rows], generator=torch.Generator().manual_seed(5)
    )
    collate, losses = PaddedBatches(tiny_lm), []
    model.train()
    head_dropout = model.dropout.p
    model.dropout.p = 0.0
    for _ in range(2):
        order = list(sampler)
        for start in range(0, len(order), 8):
            loss = model(**collate([rows[i] for i in order[start : start + 8]])).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert head_dropout == 0.1

    # the run keeps the head's dropout, so compare with it switched off in the config
    tiny_lm.model.config.classifier_dropout = 0.0
    table = fine_tune(tiny_lm, toy_task, None, seed=5, **settings)
    # the Trainer uses the fused AdamW: same formula, other rounding
    assert value(table, "loss", "train", 0) == pytest.approx(np.mean(losses[:12]), rel=1e-4)
    assert value(table, "loss", "train", 1) == pytest.approx(np.mean(losses[12:]), rel=1e-3)


class TestPairing:
    def test_arms_of_a_seed_see_the_same_batches_and_first_weights(self, tiny_lm, toy_task, watched):
        for arm in (0.0, 0.3):
            fine_tune(tiny_lm, toy_task, arm, seed=2, fraction=0.5, epochs=3, batch_size=8)
        (_, first, weights), (_, second, same_weights) = watched
        assert len(first) == len(second) == 18
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
        assert all(torch.equal(weights[name], same_weights[name]) for name in weights)

    def test_epochs_and_seeds_have_other_orders(self, tiny_lm, toy_task, watched):
        for seed in (0, 1):
            fine_tune(tiny_lm, toy_task, 0.1, seed=seed, epochs=2, batch_size=8)
        first, second = ([ids.tolist() for ids, _ in batches] for _, batches, _ in watched)
        assert first[:12] != first[12:]
        assert first[:12] != second[:12]

    def test_batches_hold_similar_lengths(self, tiny_lm, watched):
        task = Task(
            "long",
            Dataset.from_dict({"text": ["the " * (1 + i % 40) for i in range(160)], "label": [0, 1] * 80}),
            Dataset.from_dict({"text": ["a", "the"], "label": [0, 1]}),
        )
        wastes = []
        for group_by_length in (True, False):
            fine_tune(tiny_lm, task, 0.1, epochs=1, batch_size=8, group_by_length=group_by_length)
            batches = watched[-1][1]
            assert sorted(len(ids) for ids, _ in batches) == [8] * 20
            wastes.append(np.mean([(ids == 0).float().mean() for ids, _ in batches]))
        assert wastes[0] < 0.5 * wastes[1]


class TestArms:
    @pytest.mark.parametrize(("arm", "rate"), [(0.25, 0.25), (None, 0.0), (WeightDecayArm(0.1, dropout=0.05), 0.05)])
    def test_rates_are_set_at_the_sites_and_the_head_keeps_its_own(self, tiny_lm, toy_task, watched, arm, rate):
        fine_tune(tiny_lm, toy_task, arm, epochs=1)
        rates = measured_dropout(watched[0][0])
        head = rates.pop("dropout", None) or rates.pop("classifier.dropout", None)
        assert set(rates.values()) == {rate}
        assert head == 0.1

    def test_a_schedule_of_the_language_model_is_applied(self, tiny_lm, toy_task, watched):
        schedule = uniform_dropout(tiny_lm.model, 0.1)
        rates = {name: round(0.01 * i, 2) for i, name in enumerate(schedule.rates)}
        schedule = type(schedule)(rates, sites=schedule.sites)
        fine_tune(tiny_lm, toy_task, schedule, epochs=1)
        assert measured_dropout(watched[0][0]).items() >= rates.items()

    def test_a_schedule_of_another_model_is_refused(self, tiny_lm, toy_task):
        other = uniform_dropout(build("GPT2").model, 0.1)
        with pytest.raises(ValueError, match="make the schedule for this backbone"):
            fine_tune(tiny_lm, toy_task, other)

    def test_a_callable_prepares_the_classifier(self, tiny_lm, toy_task):
        prepared = []
        fine_tune(tiny_lm, toy_task, prepared.append, epochs=1)
        assert type(prepared[0]).__name__ == "BertForSequenceClassification"

    def test_gaussian(self, tiny_lm, toy_task):
        quiet = fine_tune(tiny_lm, toy_task, GaussianArm(0.0), **LEARNING)
        noisy = fine_tune(tiny_lm, toy_task, GaussianArm(0.5), **LEARNING)
        plain = fine_tune(tiny_lm, toy_task, 0.0, **LEARNING)
        assert value(quiet, "loss", "train") == pytest.approx(value(plain, "loss", "train"), rel=1e-3)
        assert value(noisy, "loss", "train") != pytest.approx(value(plain, "loss", "train"), rel=1e-3)

    def test_weight_decay(self, tiny_lm, toy_task, watched):
        for decay in (0.0, 5.0):
            fine_tune(tiny_lm, toy_task, WeightDecayArm(decay), epochs=1, learning_rate=1e-2)
        light, heavy = (classifier.classifier.weight.norm().item() for classifier, _, _ in watched)
        assert heavy < 0.9 * light

    @pytest.mark.parametrize("arm", ["guided", 1.0, -0.1, True, [0.1]])
    def test_nonsense_is_refused(self, tiny_lm, toy_task, arm):
        with pytest.raises((TypeError, ValueError), match=r"an arm"):
            fine_tune(tiny_lm, toy_task, arm)


class TestTheProcessStaysAsItWas:
    def test_generators_model_threads_and_log_level(self, tiny_lm, toy_task, capfd):
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        with unchanged(tiny_lm.model):
            fine_tune(tiny_lm, toy_task, 0.1, epochs=1)
        assert logging.get_verbosity() == verbosity
        out = capfd.readouterr()
        assert (out.out, out.err) == ("", "")

    def test_also_after_an_exception(self, tiny_lm, toy_task):
        def fail(event):
            raise KeyboardInterrupt

        with unchanged(tiny_lm.model), pytest.raises(KeyboardInterrupt):
            fine_tune(tiny_lm, toy_task, 0.1, on_event=fail)

    def test_the_same_call_gives_the_same_numbers(self, tiny_lm, toy_task):
        first = fine_tune(tiny_lm, toy_task, 0.1, seed=1, epochs=2)
        torch.rand(7)
        second = fine_tune(tiny_lm, toy_task, 0.1, seed=1, epochs=2)
        assert first["value"].tolist() == second["value"].tolist()


class TestEventsAndStop:
    def test_events(self, tiny_lm, toy_task):
        events = []
        table = fine_tune(tiny_lm, toy_task, 0.1, epochs=2, batch_size=16, on_event=events.append)
        steps = [event for event in events if event.kind == "step"]
        assert [event.step for event in steps] == list(range(1, 13))
        assert {event.total_steps for event in steps} == {12}
        epochs = [event for event in events if event.kind == "epoch"]
        assert [event.metrics["accuracy"] for event in epochs] == table.loc[
            table["metric"] == "accuracy", "value"
        ].tolist()
        mean = np.mean([event.metrics["loss"] for event in steps[:6]])
        assert value(table, "loss", "train", 0) == pytest.approx(mean, rel=1e-6)

    @pytest.mark.parametrize("after", [1, 7])
    def test_stop_ends_within_one_step_and_keeps_whole_epochs(self, tiny_lm, toy_task, after):
        stop, seen = threading.Event(), []

        def listen(event):
            seen.append(event)
            if event.step == after:
                stop.set()

        table = fine_tune(tiny_lm, toy_task, 0.1, epochs=2, batch_size=16, on_event=listen, stop=stop)
        assert max(event.step for event in seen) == after
        assert table["epoch"].unique().tolist() == ([1] if after == 7 else [])
        assert list(table.columns) == ["arm", "fraction", "seed", "epoch", "split", "metric", "value", "seconds"]


def test_padding_changes_only_rounding(tiny_lm, toy_task):
    tiny_lm.model.config.classifier_dropout = 0.0
    settings = {"epochs": 2, "learning_rate": 3e-3}
    dynamic = fine_tune(tiny_lm, toy_task, None, **settings)
    padded = fine_tune(tiny_lm, toy_task, None, padding="max_length", **settings)
    # padded positions are masked out exactly; sums over more terms round differently and Adam amplifies it a little
    np.testing.assert_allclose(dynamic["value"], padded["value"], rtol=1e-3)


def test_scores_of_the_end_alone_are_those_of_the_last_epoch(tiny_lm, toy_task):
    tiny_lm.model.config.classifier_dropout = 0.0  # scoring draws a random number, so the masks would differ
    every = fine_tune(tiny_lm, toy_task, None, epochs=3, learning_rate=3e-3)
    end = fine_tune(tiny_lm, toy_task, None, epochs=3, learning_rate=3e-3, evaluate="end")
    columns = ["epoch", "split", "metric", "value"]
    last = every.loc[every["epoch"] == 3, columns].reset_index(drop=True)
    assert end[columns].equals(last), "the training loss of the last epoch, too"


def test_accumulated_batches_are_one_update(tiny_lm, toy_task):
    tiny_lm.model.config.classifier_dropout = 0.0
    whole = fine_tune(tiny_lm, toy_task, None, epochs=2, batch_size=16)
    split = fine_tune(
        tiny_lm, toy_task, None, epochs=2, batch_size=8, training_arguments={"gradient_accumulation_steps": 2}
    )
    np.testing.assert_allclose(whole["value"], split["value"], rtol=1e-3)
    assert Hyperparameters(batch_size=8, training_arguments={"gradient_accumulation_steps": 2}).n_updates(96) == 18


def test_further_validation_sets_are_scored(tiny_lm, toy_task):
    from dataclasses import replace

    task = replace(toy_task, more_validation={"validation_mismatched": toy_task.validation})
    table = fine_tune(tiny_lm, task, 0.1, epochs=2)
    first = table[table["split"] == "validation"][["epoch", "metric", "value"]]
    second = table[table["split"] == "validation_mismatched"][["epoch", "metric", "value"]]
    assert first.to_numpy().tolist() == second.to_numpy().tolist()


def test_a_stop_between_two_validation_sets_keeps_neither(tiny_lm, toy_task, monkeypatch):
    from dataclasses import replace

    stop, scored = threading.Event(), []

    def scoring(task, predictions, labels):
        scored.append(len(labels))
        if len(scored) == 3:
            stop.set()
        return {"accuracy": 0.5}

    monkeypatch.setattr(Task, "compute_metrics", scoring)
    task = replace(toy_task, more_validation={"validation_mismatched": toy_task.validation})
    table = fine_tune(tiny_lm, task, 0.1, epochs=2, stop=stop)
    assert len(scored) == 3
    assert table.groupby("epoch")["split"].unique().map(list).to_dict() == {
        1: ["train", "validation", "validation_mismatched"]
    }


def test_a_diverged_run_shows_nan(tiny_lm, toy_task):
    def spoil(classifier):
        with torch.no_grad():
            classifier.classifier.weight.fill_(float("nan"))

    table = fine_tune(tiny_lm, toy_task, spoil, epochs=1)
    assert table["value"].isna().all()


def test_default_learning_rate(tiny_lm):
    assert default_learning_rate(tiny_lm) == 2e-4

    class Large(nn.Module):
        def parameters(self, recurse=True):
            return iter([torch.empty(50_000_000, device="meta")])

    assert default_learning_rate(Pretrained(Large(), None)) == 2e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "expected epochs as a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, "expected epochs as a whole number of at least 1, got 1.5"),
        ({"batch_size": True}, "expected batch_size as a whole number"),
        ({"learning_rate": 0.0}, "expected learning_rate as a number above 0, got 0.0"),
        ({"warmup": 10}, "expected warmup as a number at least 0 and below 1, got 10"),
        ({"weight_decay": -1}, "expected weight_decay as a number at least 0, got -1"),
        ({"padding": "short"}, "expected padding to be one of 'longest', 'max_length', got 'short'"),
        ({"evaluate": "never"}, "expected evaluate to be one of 'epoch', 'end', got 'never'"),
        ({"training_arguments": {"seed": 3}}, "expected training_arguments without seed, which gdrop_viz sets"),
        ({"training_arguments": {"dtype": torch.float16}}, "plain values that JSON can store"),
        ({"fraction": 0.0}, "fraction as a number above 0"),
        ({"fraction": 0.01}, "1 % of the 96 training examples of animals hold no example of class"),
    ],
)
def test_settings_out_of_range(tiny_lm, toy_task, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fine_tune(tiny_lm, toy_task, 0.1, **settings)


class TestThreads:
    def test_trainings_in_several_threads_take_turns(self, tiny_lm, toy_task):
        from concurrent.futures import ThreadPoolExecutor

        alone = [fine_tune(tiny_lm, toy_task, 0.1, seed=seed, epochs=1) for seed in (0, 1)]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda seed: fine_tune(tiny_lm, toy_task, 0.1, seed=seed, epochs=1), (0, 1)))
        assert [table["value"].tolist() for table in alone] == [table["value"].tolist() for table in together]

    def test_a_training_that_waits_can_be_stopped(self, tiny_lm, toy_task):
        stop, results = threading.Event(), []

        def listen(event):
            if event.step == 1 and not results:
                other = threading.Thread(
                    target=lambda: results.append(fine_tune(tiny_lm, toy_task, 0.1, epochs=1, stop=stop))
                )
                other.start()
                stop.set()
                other.join(timeout=60)

        fine_tune(tiny_lm, toy_task, 0.1, epochs=1, on_event=listen)
        assert len(results) == 1
        assert results[0].empty
