"""An arm that kills its worker is named, soon, and the runs that were done before are kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import gdrop_viz as gv
from gdrop_viz.finetuning import compare

QUICK = {"epochs": 1, "learning_rate": 3e-3, "progress": False, "seeds": [0], "threads": 1}
RUNS = "GDROP_VIZ_TEST_RUNS"


def _in_a_worker() -> bool:
    return "MainProcess" not in multiprocessing.current_process().name


def _wait_for_a_finished_run():
    """With a second worker beside this one, so that there is something to keep."""
    deadline = time.monotonic() + 120
    while not list(Path(os.environ[RUNS]).glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)


def leaves(model):
    """End the worker as a library that calls exit does; in the process that tries it first, be harmless."""
    if _in_a_worker():
        _wait_for_a_finished_run()
        os._exit(3)


def is_killed(model):
    """End the worker as the system does that runs out of memory."""
    if _in_a_worker():
        _wait_for_a_finished_run()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS, str(tmp_path))  # workers inherit it
    return tmp_path


def _check(error, runs, name):
    assert f"arm {name!r}, 100 %, seed 0" in str(error.value)
    assert "\n" not in str(error.value)
    kept = gv.Comparison.load(runs)
    assert kept.arms == ["standard"]
    assert len(kept.scores()) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("arm", [leaves, is_killed])
def test_in_a_pool_of_processes(tiny_lm, toy_task, runs, arm):
    arms = {"standard": 0.1, "deadly": arm}
    with (
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(RuntimeError) as error,
    ):
        compare(tiny_lm, toy_task, arms, executor=pool, path=runs, **QUICK)
    _check(error, runs, "deadly")


@pytest.mark.slow
def test_in_a_dask_cluster(tiny_lm, toy_task, runs):
    """Dask gives the run of a dead worker to the next one, so one death is forgiven, and not four."""
    from distributed import Client

    arms = {"standard": 0.1, "deadly": leaves}
    with (
        Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client,
        pytest.raises(RuntimeError) as error,
    ):
        compare(tiny_lm, toy_task, arms, executor=client.get_executor(), path=runs, **QUICK)
    assert "2 of them died in arm 'deadly'" in str(error.value)
    _check(error, runs, "deadly")
