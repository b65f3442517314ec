"""A finished run belongs to all that determined it: change any one thing, and it is another run."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import threading
import types
from dataclasses import dataclass, replace

import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.finetuning.encoding import encode
from gdrop_viz.text.tasks import Task
from tests.finetuning.conftest import animal_rows

QUICK = {"epochs": 1, "progress": False, "fractions": [1.0], "seeds": [0]}
RATE = 0.1  # a global that arms read

helpers = types.ModuleType("helpers_of_an_arm")
helpers.__file__ = None
sys.modules[helpers.__name__] = helpers


def write_helper(rate: float) -> None:
    """Edit the module that arms import."""
    exec(f"def rate():\n    return {rate}\n", helpers.__dict__)


write_helper(0.1)


def reads_a_global(model):
    gv.uniform_dropout(model, RATE).apply(model)


def calls_a_helper(model):
    gv.uniform_dropout(model, helpers.rate()).apply(model)


class Object:
    def __init__(self, rate=0.1):
        self.rate = rate

    def __call__(self, model):
        gv.uniform_dropout(model, self.rate * RATE).apply(model)


@dataclass(frozen=True)
class Fields:
    rate: float

    def __call__(self, model):
        calls_a_helper(model)


@pytest.fixture
def names(tiny_lm, toy_task, tmp_path, monkeypatch):
    """A function that runs a comparison without any training and returns the names of all its runs' files."""

    def no_training(lm, task, arm, seed, fraction, hyperparameters, **_):
        row = {"epoch": hyperparameters.epochs, "split": "validation", "metric": "accuracy"}
        return [{**row, "value": 0.5, "seconds": 0.0}]

    monkeypatch.setattr("gdrop_viz.finetuning.comparison.run_rows", no_training)

    def run(arm=0.1, lm=tiny_lm, task=toy_task, **settings):
        gv.compare(lm, task, {"arm": arm}, path=tmp_path, **{**QUICK, **settings})
        return {file.name for file in tmp_path.glob("*.json")}

    return run


def other_rows(task, column, value):
    rows = task.train.to_list()
    rows[3][column] = value
    return replace(task, train=type(task.train).from_list(rows))


class OwnMetrics(Task):
    def compute_metrics(self, predictions, labels):
        return {"accuracy": 1.0}


INGREDIENTS = {
    "a weight": lambda lm, task: lm.model.bert.encoder.layer[0].output.dense.weight.data[0, 0].add_(1e-3),
    "the configuration": lambda lm, task: setattr(lm.model.config, "initializer_range", 0.05),
    "the rate of the head": lambda lm, task: setattr(lm.model.config, "classifier_dropout", 0.3),
    "a word of the tokenizer": lambda lm, task: lm.tokenizer.add_tokens(["unheard"]),
    "the tokenizer's truncation side": lambda lm, task: setattr(lm.tokenizer, "truncation_side", "left"),
    "the tokenizer's limit": lambda lm, task: setattr(lm.tokenizer, "model_max_length", 9),
    "the tokenizer's inputs": lambda lm, task: setattr(lm.tokenizer, "model_input_names", ["input_ids"]),
    "the padding token": lambda lm, task: setattr(lm.tokenizer, "pad_token", "[MASK]"),
    "a text": lambda lm, task: {"task": other_rows(task, "text", "a cat and a dog")},
    "a label": lambda lm, task: {"task": other_rows(task, "label", 1 - task.train["label"][3])},
    "the validation rows": lambda lm, task: {"task": replace(task, validation=animal_rows(40, seed=9))},
    "a further validation set": lambda lm, task: {"task": replace(task, more_validation={"v": task.validation})},
    "the metrics": lambda lm, task: {"task": replace(task, metrics=("accuracy", "f1"))},
    "what a metric computes": lambda lm, task: {"task": OwnMetrics("animals", task.train, task.validation)},
    "the rate": lambda lm, task: {"arm": 0.2},
    "the seed": lambda lm, task: {"seeds": [1]},
    "the fraction": lambda lm, task: {"fractions": [0.5]},
    "the epochs": lambda lm, task: {"epochs": 2},
    "the batch size": lambda lm, task: {"batch_size": 8},
    "the learning rate": lambda lm, task: {"learning_rate": 1e-3},
    "the warm-up": lambda lm, task: {"warmup": 0.2},
    "the weight decay": lambda lm, task: {"weight_decay": 0.2},
    "the length": lambda lm, task: {"max_length": 7},
    "the padding": lambda lm, task: {"padding": "max_length"},
    "the grouping": lambda lm, task: {"group_by_length": False},
    "the scoring": lambda lm, task: {"evaluate": "end"},
    "the Trainer's arguments": lambda lm, task: {"training_arguments": {"max_grad_norm": 0.5}},
}


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_every_ingredient_makes_another_run(names, tiny_lm, toy_task, ingredient):
    first = names()
    assert names() == first, "nothing changed"
    with torch.no_grad():
        change = INGREDIENTS[ingredient](tiny_lm, toy_task)
    assert len(names(**(change if isinstance(change, dict) else {}))) == 2


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers"])
def test_a_new_version_of_a_library_makes_another_run(names, monkeypatch, library):
    names()
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == library else version(name))
    assert len(names()) == 2


def test_the_name_of_the_arm_and_the_state_of_the_tokenizer_do_not_count(names, tiny_lm):
    names()
    tiny_lm.tokenizer(["a cat", "a"], padding=True, truncation=True, max_length=4)
    assert len(names(0.1)) == len(names(gv.uniform_dropout(tiny_lm.model, 0.1))) == 1


READING_ARMS = {
    "a function": lambda: reads_a_global,
    "a partial": lambda: functools.partial(reads_a_global),
    "an object": Object,
    "inside another arm": lambda: gv.WeightDecayArm(0.1, dropout=reads_a_global),
}
CALLING_ARMS = {
    "a function": lambda: calls_a_helper,
    "a lambda": lambda: lambda model: calls_a_helper(model),
    "a dataclass": lambda: Fields(0.1),
}


@pytest.mark.parametrize("arm", READING_ARMS)
def test_a_changed_global_makes_another_run(names, monkeypatch, arm):
    names(READING_ARMS[arm]())
    assert len(names(READING_ARMS[arm]())) == 1
    monkeypatch.setitem(globals(), "RATE", 0.2)
    assert len(names(READING_ARMS[arm]())) == 2


@pytest.mark.parametrize("arm", CALLING_ARMS)
def test_an_edited_helper_makes_another_run(names, arm):
    names(CALLING_ARMS[arm]())
    assert len(names(CALLING_ARMS[arm]())) == 1
    write_helper(0.2)
    try:
        assert len(names(CALLING_ARMS[arm]())) == 2
    finally:
        write_helper(0.1)


def test_what_an_object_holds_counts(names):
    names(Object(0.1))
    assert len(names(Object(0.1))) == 1
    assert len(names(Object(0.2))) == 2


def test_what_cannot_be_read_needs_a_version(names):
    lock = threading.Lock()

    def locked(model):
        with lock:
            gv.uniform_dropout(model, 0.1).apply(model)

    for arm in (locked, gv.WeightDecayArm(0.1, dropout=locked)):
        with pytest.raises(TypeError, match=r"content can be read.*name a version="):
            names(arm)
    names(locked, version="1")
    assert len(names(locked, version="1")) == 1
    assert len(names(locked, version="2")) == 2


def test_a_version_does_not_hide_what_can_be_read(names):
    names(0.1, version="1")
    assert len(names(0.2, version="1")) == 2


def test_the_tokens_kept_in_memory_follow_the_tokenizer(tiny_lm, toy_task):
    rows = toy_task.train.select(range(5))
    right = [row["input_ids"].tolist() for row in encode(tiny_lm, rows, max_length=5)]
    tiny_lm.tokenizer.truncation_side = "left"
    left = [row["input_ids"].tolist() for row in encode(tiny_lm, rows, max_length=5)]
    expected = tiny_lm.tokenizer(rows["text"][:], truncation=True, max_length=5)["input_ids"]
    assert left == expected != right
