"""Does a background run end when asked, report what it raised, and never run twice at once?"""

from __future__ import annotations

import threading

import pytest

from gdrop_viz.widgets.running import RemainingTime, Runner, Throttle, duration


def runner() -> tuple[Runner, list]:
    heard: list = []
    return Runner(on_end=lambda: heard.append("end"), on_error=heard.append), heard


def test_a_job_runs_elsewhere_and_its_end_is_told():
    run, heard = runner()
    threads = []
    run.start(lambda stop: threads.append(threading.current_thread()))
    assert run.wait(5)
    assert threads != [threading.current_thread()]
    assert (heard, run.running) == (["end"], False)


def test_stop_sets_the_event_that_the_job_polls():
    run, heard = runner()
    run.start(lambda stop: stop.wait(30))
    assert run.running
    assert not run.stopping
    run.stop()
    assert run.wait(5)
    assert heard == ["end"]


def test_a_second_start_waits_for_the_first_job():
    run, _ = runner()
    release = threading.Event()
    run.start(lambda stop: release.wait(30))
    with pytest.raises(RuntimeError, match="still at work"):
        run.start(lambda stop: None)
    release.set()
    assert run.wait(5)
    again = []
    run.start(lambda stop: again.append(stop.is_set()))
    assert run.wait(5)
    assert again == [False]


def test_an_error_is_reported_before_the_end():
    run, heard = runner()
    error = ValueError("no such arm")

    def job(stop):
        raise error

    run.start(job)
    assert run.wait(5)
    assert heard == [error, "end"]


def test_throttle_lets_through_one_at_a_time():
    throttle = Throttle(seconds=1000)
    assert [throttle.ready() for _ in range(3)] == [True, False, False]
    assert throttle.ready(always=True)


def test_remaining_time_ignores_what_was_skipped():
    clock = iter([0.0, 1.0, 1.0, 4.0])
    remaining = RemainingTime(clock=lambda: next(clock))
    remaining.skip(0.5)
    assert remaining.seconds(0.5) is None
    assert remaining.seconds(0.6) == pytest.approx(12.0)  # a tenth took 3 s, four tenths are left


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min")])
def test_durations_round_before_they_split(seconds, text):
    assert duration(seconds) == text
