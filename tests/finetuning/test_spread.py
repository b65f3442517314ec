from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from gdrop_viz.base.parallel import packed
from gdrop_viz.dropout import uniform_dropout
from gdrop_viz.finetuning import GaussianArm, compare
from gdrop_viz.models.pretrained import Pretrained
from tests.conftest import word_tokenizer
from tests.zoo import build

QUICK = {"epochs": 1, "learning_rate": 3e-3, "progress": False}


@pytest.mark.slow
def test_processes_give_the_numbers_of_this_process(tiny_lm, toy_task, tmp_path):
    arms = {"standard": 0.1, "schedule": uniform_dropout(tiny_lm.model, 0.05), "gaussian": GaussianArm(0.1)}
    settings = {"seeds": [0, 1], "threads": 1, **QUICK}
    here = compare(tiny_lm, toy_task, arms, **settings)
    events = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = compare(tiny_lm, toy_task, arms, executor=pool, path=tmp_path, on_event=events.append, **settings)
    columns = ["arm", "fraction", "seed", "epoch", "split", "metric", "value"]
    assert here.runs[columns].equals(there.runs[columns])
    assert Counter(event.kind for event in events) == {
        "run started": 6,
        "epoch": 6,
        "run finished": 6,
        "finished": 1,
    }
    assert len(list(tmp_path.iterdir())) == 6


def test_unpacking_a_model_leaves_the_generators_alone(tiny_lm):
    """They belong to the process: another thread may be training with them."""
    payload = packed(tiny_lm, "a model")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pickle.loads(payload)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_share_the_random_numbers_so_they_take_turns(tiny_lm, toy_task):
    arms = {"standard": 0.1, "more": 0.3}
    here = compare(tiny_lm, toy_task, arms, seeds=[0], **QUICK)
    with ThreadPoolExecutor(2) as pool:
        there = compare(tiny_lm, toy_task, arms, seeds=[0], executor=pool, **QUICK)
    assert here.runs["value"].tolist() == there.runs["value"].tolist()


def test_a_dask_cluster_gives_the_same_numbers(tiny_lm, toy_task):
    from distributed import Client

    here = compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0, 1], **QUICK)
    settings = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with Client(**settings) as client:
        there = compare(tiny_lm, toy_task, {"standard": 0.1}, seeds=[0, 1], executor=client.get_executor(), **QUICK)
    assert here.runs["value"].tolist() == there.runs["value"].tolist()


class TestStop:
    def test_it_reaches_running_jobs_and_withdraws_waiting_ones(self, tiny_lm, toy_task):
        stop = threading.Event()

        def listen(event):
            if event.kind == "run finished":
                stop.set()

        with ThreadPoolExecutor(1) as pool:
            result = compare(
                tiny_lm,
                toy_task,
                {"a": 0.1, "b": 0.2},
                seeds=range(6),
                executor=pool,
                on_event=listen,
                stop=stop,
                **QUICK,
            )
        # the job that ran meanwhile ended at its next step, or had just ended itself
        assert 1 <= len(result.scores()) <= 2
        assert not result.metadata["complete"]

    def test_an_error_in_a_run_ends_the_others(self, tiny_lm, toy_task):
        before = threading.active_count()
        with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
            compare(tiny_lm, toy_task, {"a": 0.1, "bad": fails_in_training}, seeds=range(4), executor=pool, **QUICK)
        assert threading.active_count() == before


def fails_in_training(model):
    model.register_forward_pre_hook(lambda *_: 1 / 0 if torch.is_grad_enabled() else None)


def dies_in_a_worker(model):
    if multiprocessing.parent_process() is not None:
        os._exit(9)


@pytest.mark.slow
def test_an_arm_that_kills_its_worker_is_named_and_what_is_done_is_kept(tiny_lm, toy_task, tmp_path):
    arms = {"standard": 0.1, "deadly": dies_in_a_worker}
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(RuntimeError, match=r"BrokenProcessPool while these were at work: .*arm 'deadly', 100 %, seed 0"),
    ):
        compare(tiny_lm, toy_task, arms, seeds=[0], executor=pool, path=tmp_path, **QUICK)
    assert len(list(tmp_path.glob("*.json"))) == 1


class Immediate(Executor):
    """Runs each job when it is submitted, and remembers how many were handed over at once."""

    def __init__(self):
        self.waiting = []
        self.most = 0

    def submit(self, function, *args):
        future = Future()
        self.waiting = [other for other in self.waiting if not other.done()] + [future]
        self.most = max(self.most, len(self.waiting))

        def work():
            time.sleep(0.05)
            future.set_result(function(*args))

        threading.Thread(target=work).start()
        return future


def test_only_a_few_jobs_are_handed_over_at_once(tiny_lm, toy_task):
    executor = Immediate()
    executor._max_workers = 1
    result = compare(tiny_lm, toy_task, {"a": 0.1}, seeds=range(5), executor=executor, **QUICK)
    assert len(result.scores()) == 5
    assert executor.most <= 2


@pytest.mark.parametrize("name", ["Bert", "GPT2", "T5"])
def test_a_sent_model_is_the_same(name):
    case = build(name)
    lm = Pretrained(case.model, word_tokenizer(), objective=case.objective, name=name)
    received = pickle.loads(packed(lm, "a model"))
    assert (received.objective, received.name) == (lm.objective, lm.name)
    state = lm.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in received.model.state_dict().items())
    assert len(list(received.model.parameters())) == len(list(lm.model.parameters()))  # ties are tied again
    output, expected = received.model.eval()(**case.batch), lm.model(**case.batch)
    assert torch.equal(output.logits, expected.logits)


class TestErrors:
    def test_forked_processes(self, tiny_lm, toy_task):
        with (
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
            pytest.raises(ValueError, match="does not fork this process"),
        ):
            compare(tiny_lm, toy_task, {"a": 0.1}, executor=pool, **QUICK)

    def test_an_arm_that_cannot_be_sent(self, tiny_lm, toy_task):
        with (
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
            pytest.raises(ValueError, match="expected arm 'local' as one that can be sent to another process"),
        ):
            compare(tiny_lm, toy_task, {"local": lambda model: None}, executor=pool, **QUICK)
