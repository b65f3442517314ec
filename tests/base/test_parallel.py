"""Do jobs on an executor share what they are sent once, stop, and name what was at work when a worker died?"""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from gdrop_viz.base.parallel import Job, check_executor, packed, results


class Square:
    """Counts how often it is unpacked."""

    unpacked = 0

    def __init__(self):
        self.state = "kept"

    def __call__(self, value):
        if value < 0:
            raise ZeroDivisionError(value)
        return value * value

    def __setstate__(self, state):
        Square.unpacked += 1


def same(value):
    return value


def jobs(values):
    return [Job(value, f"the square of {value}", (value,)) for value in values]


def done(executor, values, **settings):
    settings = {"stopping": lambda: False, **settings}
    return results(executor, packed((same, (Square(),)), "a function"), jobs(values), **settings)


class Recording(ThreadPoolExecutor):
    """Knows how many jobs are in flight at most, and how many were sent with the payload."""

    def __init__(self, workers):
        super().__init__(workers)
        self.most = self.sent = 0
        self.futures = []

    def submit(self, function, token, payload, *rest):
        self.sent += payload is not None
        self.futures = [future for future in self.futures if not future.done()]
        self.futures.append(super().submit(function, token, payload, *rest))
        self.most = max(self.most, len(self.futures))
        return self.futures[-1]


def test_results_belong_to_their_jobs_and_the_payload_travels_once_per_worker():
    Square.unpacked = 0
    with Recording(3) as executor:
        assert dict(done(executor, range(50))) == {n: n * n for n in range(50)}
    assert 1 <= Square.unpacked <= 3
    assert Square.unpacked <= executor.sent < 50
    assert executor.most <= 4


def test_jobs_are_taken_when_they_can_begin():
    taken = []

    def lazily():
        for job in jobs(range(10)):
            taken.append(job.key)
            yield job

    with ThreadPoolExecutor(1) as executor:
        payload = packed((same, (Square(),)), "a function")
        found = results(executor, payload, lazily(), stopping=lambda: False)
        next(found)
        assert len(taken) <= 3
        found.close()


def test_a_stop_leaves_out_what_has_not_begun():
    stop = threading.Event()
    found = []
    with ThreadPoolExecutor(1) as executor:
        for key, _ in done(executor, range(100), stopping=stop.is_set):
            found.append(key)
            stop.set()
    assert found == [0]


class Waiting:
    """Works until it is told to end."""

    def __call__(self, number):
        started.set()
        assert ended.wait(60)
        return number


started, ended = threading.Event(), threading.Event()


@pytest.fixture
def events():
    started.clear(), ended.clear()
    yield
    ended.set()


def test_running_jobs_can_be_told_to_end_and_still_count(events):
    with ThreadPoolExecutor(1) as executor:
        payload = packed((same, (Waiting(),)), "a function")
        found = results(executor, payload, jobs(range(9)), stopping=started.is_set, end_running=ended.set)
        assert [key for key, _ in found] == [0]


def test_running_jobs_are_told_to_end_after_an_error(events):
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(ZeroDivisionError):
            list(done(executor, [-1, 2], end_running=ended.set))
        assert ended.is_set()


@pytest.mark.parametrize("error", [BrokenProcessPool("a process in the pool was terminated"), CancelledError()])
def test_a_dead_worker_is_one_error_that_names_what_was_at_work(error):
    class Dead(ThreadPoolExecutor):
        def submit(self, function, token, payload, arguments, threads):
            if arguments[0] < 5:
                return super().submit(function, token, payload, arguments, threads)
            future = Future()
            future.set_exception(error)
            return future

    expected = rf"got {type(error).__name__} while these were at work: .*the square of [56]"
    with Dead(1) as executor, pytest.raises(RuntimeError, match=expected):
        list(done(executor, range(50)))


def test_the_job_that_dask_gave_up_is_named():
    distributed = pytest.importorskip("distributed")
    killed = distributed.scheduler.KilledWorker if hasattr(distributed, "scheduler") else distributed.KilledWorker

    class Dead(ThreadPoolExecutor):
        def submit(self, function, token, payload, arguments, threads):
            if arguments[0] != 3:
                return super().submit(function, token, payload, arguments, threads)
            future = Future()
            future.set_exception(killed("task", None, 3))
            return future

    with (
        Dead(2) as executor,
        pytest.raises(RuntimeError, match="KilledWorker while these were at work: the square of 3; what was done"),
    ):
        list(done(executor, range(50)))


@pytest.mark.slow
def test_a_killed_process():
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(RuntimeError, match=r"BrokenProcessPool while these were at work: .*the square of 9"),
    ):
        list(results(pool, packed((same, (os._exit,)), "a function"), jobs([9]), stopping=lambda: False))


def test_what_cannot_be_sent_is_named():
    for value in (lambda: 1, threading.Lock()):
        with pytest.raises(ValueError, match="expected loss= that can be sent to another process, got: "):
            packed(value, "loss=")
    assert pickle.loads(packed({"a": 1}, "a mapping")) == {"a": 1}


def test_something_else_than_an_executor():
    with pytest.raises(TypeError, match=r"expected executor as a concurrent\.futures\.Executor, got int"):
        check_executor(4)
