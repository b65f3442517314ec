"""A comparison beside other work on the same model, in other threads, gives the numbers that it gives alone."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.base.locks import model_lock
from gdrop_viz.finetuning import compare
from gdrop_viz.finetuning.classifier import build_classifier, pretrained_digest

SETTINGS = {"seeds": [0, 1], "epochs": 2, "learning_rate": 3e-3, "progress": False}


@pytest.fixture
def shifted(tiny_lm):
    """A thread that holds the model's lock with other weights in it, as a surface does, until it is told to end."""
    begun, end = threading.Event(), threading.Event()

    def work():
        with model_lock(tiny_lm.model), torch.no_grad():
            before = {name: p.clone() for name, p in tiny_lm.model.named_parameters()}
            for parameter in tiny_lm.model.parameters():
                parameter.add_(1.0)
            begun.set()
            end.wait(60)
            for name, parameter in tiny_lm.model.named_parameters():
                parameter.copy_(before[name])

    thread = threading.Thread(target=work)

    def start():
        thread.start()
        assert begun.wait(60)
        threading.Timer(0.5, end.set).start()

    yield start
    end.set()
    thread.join(60)


READERS = {
    "a classifier": lambda lm, task: build_classifier(lm, task).bert.encoder.layer[0].output.dense.weight.sum().item(),
    "the digest": lambda lm, task: pretrained_digest(lm),
    "a comparison": lambda lm, task: compare(lm, task, {"a": 0.1}, **SETTINGS).runs["value"].tolist(),
    "a run": lambda lm, task: gv.fine_tune(lm, task, 0.1, epochs=1)["value"].tolist(),
}


@pytest.mark.parametrize("reader", READERS)
def test_weights_that_another_thread_has_moved_are_not_read(tiny_lm, toy_task, shifted, reader):
    alone = READERS[reader](tiny_lm, toy_task)
    shifted()
    assert READERS[reader](tiny_lm, toy_task) == alone


def test_beside_a_surface_and_an_estimation(tiny_lm, toy_task, tiny_batches):
    directions = [gv.random_direction(tiny_lm.model, seed=seed) for seed in (0, 1)]

    def surface():
        return gv.loss_surface(tiny_lm.model, tiny_batches, directions, points=9, progress=False).loss

    def fisher():
        return gv.fisher_information(tiny_lm.model, tiny_batches, estimator="sampled", progress=False).means

    alone = compare(tiny_lm, toy_task, {"a": 0.1}, **SETTINGS).runs["value"].tolist(), surface(), fisher()
    found = {}
    works = {"surface": surface, "fisher": fisher}
    threads = [threading.Thread(target=lambda n=name: found.update({n: works[n]()})) for name in works]
    for thread in threads:
        thread.start()
    beside = compare(tiny_lm, toy_task, {"a": 0.1}, **SETTINGS).runs["value"].tolist()
    for thread in threads:
        thread.join(120)
    assert beside == alone[0]
    assert (found["surface"] == alone[1]).all()
    assert found["fisher"].equals(alone[2])


def test_a_run_that_waits_for_the_generators_can_be_stopped(tiny_lm, toy_task):
    from gdrop_viz.base.state import preserved_rng

    begun, end, stop = threading.Event(), threading.Event(), threading.Event()

    def draw():
        with preserved_rng(0):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=draw)
    thread.start()
    begun.wait(60)
    threading.Timer(0.3, stop.set).start()
    began = time.perf_counter()
    table = gv.fine_tune(tiny_lm, toy_task, 0.1, epochs=1, stop=stop)
    assert table.empty
    assert time.perf_counter() - began < 30
    end.set()
    thread.join(60)
