"""Flat memory, threads and open files: a small part of the campaign; the counts are in endurance.campaign."""

from __future__ import annotations

import threading

import pytest

from tests.torture import endurance


@pytest.mark.parametrize(
    ("part", "times", "warm"),
    [(endurance.fisher_calls, 40, 10), (endurance.slider_moves, 40, 10), (endurance.run_stop_cycles, 5, 2)],
)
def test_nothing_grows(part, times, warm):
    assert part(times, warm=warm)["growth"] <= endurance.GROWTH


def test_it_fails_where_something_is_kept(tmp_path):
    kept, stop = [], threading.Event()
    with pytest.raises(AssertionError, match="memory grew"):
        endurance.flat(lambda n: kept.append(bytearray(b"x") * 20_000_000), times=12, warm=2)
    with pytest.raises(AssertionError, match="files"):
        endurance.flat(lambda n: kept.append((tmp_path / "a").open("w")), times=4, warm=2)
    with pytest.raises(AssertionError, match="threads"):
        endurance.flat(lambda n: threading.Thread(target=stop.wait, daemon=True).start(), times=4, warm=2)
    stop.set()
    for one in kept[10:]:
        getattr(one, "close", lambda: None)()
