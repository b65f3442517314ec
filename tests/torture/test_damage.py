"""Damaged files before every reader, and two runs that keep away from each other's files."""

from __future__ import annotations

import contextlib
import os

import pytest

import gdrop_viz as gv
from gdrop_viz.base.files import exclusive
from tests.torture import damage, guards
from tests.torture.children import run_child

SLOW = {"model of another program", "task table (csv)"}


@pytest.mark.parametrize("kind", sorted(damage.readers()))
def test_no_damage_goes_unseen(kind):
    outcome = damage.trial(kind, 0, flips=4 if kind in SLOW else 30, every=25 if kind in SLOW else 7)
    assert outcome["failed"] is None
    assert outcome["kinds"]["refused"] >= 10


@pytest.mark.parametrize(
    ("guard", "kind"),
    [
        ("checksums of tensors", "Fisher (safetensors)"),
        ("checksums of tensors", "Fisher checkpoint"),
        ("checksums of JSON", "dropout schedule (JSON)"),
        ("checksums of JSON", "comparison (JSON)"),
        ("checksums of points", "surface (HDF5)"),
        ("checksums of model files", "model weights"),
    ],
)
def test_it_fails_without_the_guard(guard, kind):
    with guards.removed(guard):
        outcome = damage.trial(kind, 1, flips=80)
    assert "wrong result" in (outcome["failed"] or "") or "does not name" in (outcome["failed"] or "")


# --- two at once ------------------------------------------------------------------------------------------------------


def test_two_processes_do_not_share_a_results_folder(tmp_path):
    from tests.torture.kills import _lm, _task

    parts = damage._parts()
    lm, batches = parts["lm"], parts["batches"]

    def refuse(report):
        with pytest.raises(RuntimeError, match="being written by another run"):
            gv.compare(_lm(), _task(), {"a": 0.1}, seeds=[0], path=tmp_path, progress=False)
        with pytest.raises(RuntimeError, match=r"s\.h5.*being written by another run"):
            gv.loss_surface(lm.model, batches, gv.random_direction(lm.model), path=tmp_path / "s.h5", progress=False)
        with pytest.raises(RuntimeError, match=r"c\.st.*being written by another run"):
            gv.fisher_information(lm.model, batches, checkpoint=tmp_path / "c.st", progress=False)

    paths = [(tmp_path, True), (tmp_path / "s.h5", False), (tmp_path / "c.st", False)]
    with contextlib.ExitStack() as held:
        for path, folder in paths:
            held.enter_context(exclusive(path, folder=folder))
        ended = run_child(refuse)
        assert ended.status == 0, ended.error
    assert list(tmp_path.iterdir()) == []  # locks are cleared away

    # a killed process holds nothing
    def hold(report):
        exclusive(tmp_path, folder=True).__enter__()
        report()
        os.kill(os.getpid(), 9)

    assert run_child(hold).status == -9
    with exclusive(tmp_path, folder=True):
        pass
