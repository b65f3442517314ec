"""Do two threads at one model, or at the random generators, leave each other's numbers alone?

No test sleeps: a thread goes on when the other one has reached a certain place.
"""

from __future__ import annotations

import copy
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import gdrop_viz as gv
from gdrop_viz.base.locks import GENERATORS, TurnLock, give_way, model_lock
from gdrop_viz.base.state import preserved_modes, preserved_requires_grad, preserved_rng

SECONDS = 60


def until(condition) -> None:
    """Wait, by turning round, until another thread waits for a lock."""
    for _ in range(SECONDS * 1000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("the other thread never came")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


class TestTurns:
    def test_one_thread_at_a_time_and_in_order(self, pool):
        lock, order = TurnLock(), []

        def take(number):
            lock.acquire()
            order.append(number)
            lock.release()

        lock.acquire()
        waiting = []
        for number in range(3):
            waiting.append(pool.submit(take, number))
            until(lambda: len(lock._queue) == number + 1)  # noqa: B023
        assert order == []
        lock.acquire()  # one's own lock does not wait for the others
        lock.release()
        assert order == []
        lock.release()
        for future in waiting:
            future.result(SECONDS)
        assert order == [0, 1, 2]
        assert not lock.waited_for

    def test_waiting_can_be_given_up(self, pool):
        lock, stop = TurnLock(), threading.Event()
        lock.acquire()
        future = pool.submit(lock.acquire, cancelled=stop.is_set)
        until(lambda: lock.waited_for)
        stop.set()
        assert future.result(SECONDS) is False
        assert not lock.waited_for
        assert not pool.submit(lock.acquire, blocking=False).result(SECONDS)
        lock.release()
        assert pool.submit(lock.acquire, blocking=False).result(SECONDS)

    def test_only_its_owner_gives_it_back(self, pool):
        lock = TurnLock()
        lock.acquire()
        pool.submit(lock.release).result(SECONDS)
        assert pool.submit(lock.release_all).result(SECONDS) == 0
        assert lock.is_mine
        assert not pool.submit(lock.acquire, blocking=False).result(SECONDS)
        assert lock.release_all() == 1


class TestModels:
    @pytest.mark.parametrize(
        "other",
        [
            lambda model: model,
            lambda model: model[0],
            nn.DataParallel,
            lambda model: nn.Sequential(model[0], nn.Linear(2, 3)),  # a classifier on the same backbone
        ],
    )
    def test_whatever_shares_its_weights_is_locked_with_a_model(self, pool, other):
        model, came = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), threading.Event()

        def visit():
            with model_lock(other(model)):
                came.set()

        with model_lock(model) as hold, model_lock(model):
            future = pool.submit(visit)
            until(lambda: hold.waited_for)
            assert not came.is_set()
        future.result(SECONDS)
        assert came.is_set()

    def test_another_model_is_not(self, pool):
        model = nn.Linear(2, 2)

        def visit(other):
            with model_lock(other):
                return True

        with model_lock(model):
            for other in (nn.Linear(2, 2), copy.deepcopy(model), nn.ReLU()):
                assert pool.submit(visit, other).result(SECONDS)

    @pytest.mark.parametrize("context", [preserved_modes, preserved_requires_grad])
    def test_modes_and_gradients_are_one_threads(self, pool, context):
        model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())

        def look():
            with model_lock(model):
                return model.training, model[0].weight.requires_grad

        with context(model):
            assert (False in (model.training, model[0].weight.requires_grad)) is True
            future = pool.submit(look)
            until(lambda: any(lock.waited_for for lock in _locks(model)))
        assert future.result(SECONDS) == (True, True)

    def test_an_error_gives_it_back(self, pool):
        model = nn.Linear(2, 2)
        with pytest.raises(ZeroDivisionError), model_lock(model):
            raise ZeroDivisionError
        assert not any(lock.is_mine for lock in _locks(model))

    def test_it_does_not_keep_a_model_alive(self):
        import gc
        import weakref

        from gdrop_viz.base import locks

        model = nn.Linear(2, 2)
        before = len(locks._of_parameters)
        with model_lock(model):
            assert len(locks._of_parameters) == before + 2
        gone = weakref.ref(model.weight)
        del model
        gc.collect()
        assert gone() is None
        assert len(locks._of_parameters) <= before


def _locks(model):
    with model_lock(model) as hold:
        return hold.locks


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


class TestGenerators:
    def test_one_threads_draws_do_not_reach_the_others(self, pool):
        with preserved_rng(3):
            expected = [draw() for _ in range(4)]

        def observe():
            with preserved_rng(7):
                return draw()

        found = []
        with preserved_rng(3):
            for _ in range(4):
                future = pool.submit(observe)
                until(lambda: GENERATORS.waited_for)
                found.append(draw())
                give_way()
                assert future.done() or not GENERATORS.waited_for
        assert found == expected
        with preserved_rng(7):
            assert future.result(SECONDS) == draw()

    def test_who_waits_for_a_model_lends_the_generators_out(self, pool):
        """One thread has the model and wants the generators, the other one the reverse."""
        model, inside = nn.Linear(2, 2), threading.Event()

        def with_the_model():
            with model_lock(model) as hold:
                inside.set()
                until(lambda: hold.waited_for)
                with preserved_rng(7):
                    return draw()

        with preserved_rng(3):
            expected = draw(), draw()
        with preserved_rng(3):
            future = pool.submit(with_the_model)
            assert inside.wait(SECONDS)
            first = draw()
            with model_lock(model):
                assert (first, draw()) == expected
        with preserved_rng(7):
            assert future.result(SECONDS) == draw()


class TestWork:
    """Two pieces of this package's work at once."""

    def test_a_surface_beside_an_estimation(self, pool, tiny_bert, tiny_batches):
        plane = [gv.random_direction(tiny_bert, seed=seed) for seed in (0, 1)]
        fisher = gv.fisher_information(tiny_bert, tiny_batches, progress=False)
        alone = gv.loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False)
        futures = []

        def on_point(point):
            if point.n_done in (3, 11):
                futures.append(pool.submit(gv.fisher_information, tiny_bert, tiny_batches, progress=False))
                until(lambda: any(lock.waited_for for lock in _locks(tiny_bert)))

        beside = gv.loss_surface(tiny_bert, tiny_batches, plane, points=5, progress=False, on_point=on_point)
        assert (beside.sequence_losses == alone.sequence_losses).all()
        assert len(futures) == 2
        for future in futures:
            assert future.done()  # it was let in between two points
            found = future.result()
            assert all(torch.equal(found.scores[name], scores) for name, scores in fisher.scores.items())

    def test_two_surfaces_of_one_model(self, pool, tiny_bert, tiny_batches):
        planes = [[gv.random_direction(tiny_bert, seed=seed)] for seed in (0, 1)]
        settings = {"points": 9, "progress": False}
        alone = [gv.loss_surface(tiny_bert, tiny_batches, plane, **settings) for plane in planes]
        before = copy.deepcopy(tiny_bert.state_dict())
        together = [pool.submit(gv.loss_surface, tiny_bert, tiny_batches, plane, **settings) for plane in planes]
        for future, expected in zip(together, alone, strict=True):
            assert (future.result(SECONDS).sequence_losses == expected.sequence_losses).all()
        assert all(torch.equal(value, before[name]) for name, value in tiny_bert.state_dict().items())

    def test_a_training_beside_a_surface_is_the_same_training(self, pool, tiny_lm, tiny_batches):
        """Its model is read while the surface moves the weights, and its masks are drawn while a metric draws."""
        from tests.finetuning.conftest import animal_rows

        task = gv.Task("animals", train=animal_rows(32, seed=0), validation=animal_rows(8, seed=1))
        settings = {"seed": 0, "epochs": 2, "batch_size": 8, "learning_rate": 1e-3}
        plane = [gv.random_direction(tiny_lm.model, seed=0, norm=20.0)]

        def noisy(model, batches):
            return float(torch.rand(()))

        surface = {"points": 9, "progress": False, "metrics": {"noise": noisy}}
        alone = gv.fine_tune(tiny_lm, task, 0.3, **settings)
        calm = gv.loss_surface(tiny_lm.model, tiny_batches, plane, **surface)
        observed = []

        def on_event(event):
            if event.kind != "step":
                return
            observed.append(pool.submit(gv.loss_surface, tiny_lm.model, tiny_batches, plane, **surface))
            until(lambda: GENERATORS.waited_for)

        def on_point(point):
            if point.n_done == 2:
                training.append(pool.submit(gv.fine_tune, tiny_lm, task, 0.3, on_event=on_event, **settings))

        training: list = []
        beside = gv.loss_surface(tiny_lm.model, tiny_batches, plane, **surface, on_point=on_point)
        found = training[0].result(SECONDS)
        assert (beside.sequence_losses == calm.sequence_losses).all()
        assert found.drop(columns="seconds").equals(alone.drop(columns="seconds"))
        assert observed
        for future in observed:
            assert (future.result(SECONDS).sequence_losses == calm.sequence_losses).all()
