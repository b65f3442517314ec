"""Does a call that only some processes of a group make end early, and can one process work for itself?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore

from gdrop_viz.base import processes
from gdrop_viz.base.processes import alone, meet, n_processes, rank


def test_all_processes_meet():
    store = HashStore()
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(processes._meet, store, "a call", 0, each, 3, 60.0) for each in range(3)]:
            assert future.result() is None


@pytest.mark.parametrize(("came", "missing"), [([0], "1, 2"), ([0, 2], "1")])
def test_who_did_not_come_is_named(came, missing):
    store = HashStore()
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(processes._meet, store, "a call", 0, each, 3, 0.2) for each in came]:
            with pytest.raises(
                RuntimeError, match=rf"expected all 3 processes to call a call, .* rank {missing} did not"
            ):
                future.result()


def test_an_earlier_meeting_does_not_count():
    store = HashStore()
    processes._meet(store, "a call", 0, 0, 1, 60.0)
    with pytest.raises(RuntimeError, match="rank 1 did not"):
        processes._meet(store, "a call", 1, 0, 2, 0.2)


def test_without_a_group_nobody_waits():
    meet("a call")


def test_one_process_of_a_group_can_work_for_itself(tmp_path, tiny_bert, tiny_batches):
    """A group whose second process never comes."""
    import gdrop_viz as gv

    expected = gv.fisher_information(tiny_bert, tiny_batches, progress=False)
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=HashStore())
    try:
        assert n_processes() == 2
        with alone():
            assert (n_processes(), rank()) == (1, 0)
            found = gv.fisher_information(tiny_bert, tiny_batches, progress=False)
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.equal(found.scores[name], scores) for name, scores in expected.scores.items())
