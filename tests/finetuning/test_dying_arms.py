"""An arm that kills its worker is named, soon, and the runs that were done before are kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

import gdrop_viz as gv
from gdrop_viz.finetuning import compare

QUICK = {"epochs": 1, "learning_rate": 3e-3, "progress": False, "seeds": [0, 1], "threads": 1}


def _in_a_worker() -> bool:
    return "MainProcess" not in multiprocessing.current_process().name


def leaves(model):
    """End the worker as a library that calls exit does; in the process that tries it first, be harmless."""
    if _in_a_worker():
        time.sleep(2)  # Dask keeps results on the worker until they are fetched
        os._exit(3)


def is_killed(model):
    """End the worker as the system does that runs out of memory."""
    if _in_a_worker():
        os.kill(os.getpid(), signal.SIGKILL)


def _check(error, tmp_path, name):
    assert f"arm {name!r}, 100 %, seed 0" in str(error.value)
    assert "\n" not in str(error.value)
    kept = gv.Comparison.load(tmp_path)
    assert kept.arms == ["standard"]
    assert len(kept.scores()) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("arm", [leaves, is_killed])
def test_in_a_pool_of_processes(tiny_lm, toy_task, tmp_path, arm):
    arms = {"standard": 0.1, "deadly": arm}
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(RuntimeError) as error,
    ):
        compare(tiny_lm, toy_task, arms, executor=pool, path=tmp_path, **QUICK)
    _check(error, tmp_path, "deadly")


@pytest.mark.slow
def test_in_a_dask_cluster(tiny_lm, toy_task, tmp_path):
    """Dask gives the run of a dead worker to the next one, so one death is forgiven, and not four."""
    from distributed import Client

    arms = {"standard": 0.1, "deadly": leaves}
    with (
        Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client,
        pytest.raises(RuntimeError) as error,
    ):
        compare(tiny_lm, toy_task, arms, executor=client.get_executor(), path=tmp_path, **QUICK)
    assert "2 of them died in arm 'deadly'" in str(error.value)
    _check(error, tmp_path, "deadly")
