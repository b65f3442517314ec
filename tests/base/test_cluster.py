"""Does a real Dask cluster of separate worker processes give the serial results, and survive the death of a worker?"""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

import gdrop_viz as gv
from gdrop_viz.perturbation import random_direction
from tests.landscape import words, words_sent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def kill_one(client) -> int:
    """SIGKILL a worker process; Dask's nanny starts another one in its place."""
    pid = next(iter(client.run(os.getpid).values()))
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("killing", [False, True])
def test_surfaces_are_those_of_one_process_and_the_model_travels_once(client, tmp_path, killing):
    model = words_sent.Noted(str(tmp_path / "unpacked"))
    plane = [random_direction(model, seed=seed) for seed in (0, 1)]
    settings = dict(points=5, progress=False, loss=words.word_losses, metrics={"accuracy": words_sent.slow})
    killed = []

    def on_point(point):
        if killing and point.n_done == 6:
            killed.append(kill_one(client))

    there = gv.loss_surface(
        model, words.batches(), plane, path=tmp_path / "s.h5", executor=client.get_executor(), on_point=on_point,
        **settings,
    )  # fmt: skip
    here = gv.loss_surface(model, words.batches(), plane, **settings)
    assert there.is_complete
    assert (there.sequence_losses == here.sequence_losses).all()
    assert (there.metrics["accuracy"] == here.metrics["accuracy"]).all()
    assert (gv.Surface.load(tmp_path / "s.h5").loss == here.loss).all()
    # 25 points, and each process unpacked the model once at most
    loads = Counter((tmp_path / "unpacked").read_text().split())
    assert set(loads.values()) == {1}
    assert len(loads) <= 2 + len(killed)
    assert len(killed) == killing


def test_a_comparison_survives_the_death_of_a_worker(client, tiny_lm, tmp_path):
    from tests.finetuning.conftest import animal_rows

    task = gv.Task("animals", train=animal_rows(48, seed=0), validation=animal_rows(20, seed=1))
    arms = {"standard": 0.1, "none": None}
    settings = {"seeds": range(3), "epochs": 1, "threads": 1, "learning_rate": 3e-3, "progress": False}
    here = gv.compare(tiny_lm, task, arms, **settings)
    killed = []

    def on_event(event):
        if event.kind == "run finished" and not killed:
            killed.append(kill_one(client))

    there = gv.compare(
        tiny_lm, task, arms, executor=client.get_executor(), path=tmp_path, on_event=on_event, **settings
    )
    assert killed
    columns = ["arm", "fraction", "seed", "epoch", "split", "metric", "value"]
    assert here.runs[columns].equals(there.runs[columns])
    assert len(list(tmp_path.iterdir())) == 6
