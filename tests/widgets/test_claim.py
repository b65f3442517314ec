"""Does a reloaded page find the run that it has lost, and can it stop that run and take over?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from gdrop_viz.widgets import claim as claim_module
from gdrop_viz.widgets.claim import Claim
from gdrop_viz.widgets.run_panel import RunPanel


class Working(RunPanel):
    def __init__(self, where) -> None:
        super().__init__()
        self.where, self.ended = where, threading.Event()
        self.compose([self.buttons, self.progress, self.printed], charts=[])
        self.offer_to_take_over()

    def folder(self):
        return self.where

    def run(self) -> None:
        def job(stop):
            stop.wait(60)
            self.ended.set()

        self.start(job, "Starting.")


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_second_panel_offers_to_take_over_and_does(tmp_path):
    first = Working(tmp_path / "runs")
    assert first.take_over_button.layout.display == "none"
    first.run()
    wait_until(lambda: (tmp_path / "runs" / ".running.json").exists())

    second = Working(tmp_path / "runs")
    assert second.take_over_button.layout.display == ""
    assert "is still at work" in second.message.value
    second.run_button.click()  # not beside the other one
    assert not second.runner.running
    assert "you take over" in second.message.value
    second.take_over_button.click()
    assert second.runner.wait(30)
    assert first.ended.is_set()
    assert second.last_error is None
    second.run_button.click()
    assert second.runner.running
    second.stop_button.click()
    assert second.runner.wait(30)
    assert list((tmp_path / "runs").iterdir()) == []
    first.close()
    second.close()


def test_the_run_of_another_kernel_is_stopped(tmp_path):
    code = f"""
import threading, pathlib
from gdrop_viz.widgets.claim import Claim
stop = threading.Event()
with Claim(pathlib.Path({str(tmp_path)!r})).held(stop):
    print("at work", flush=True)
    print("stopped" if stop.wait(60) else "not asked", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "at work\n"
        claim = Claim(tmp_path)
        assert claim.other() is not None
        assert claim.take_over(threading.Event(), seconds=30)
        assert other.stdout.readline() == "stopped\n"


@pytest.mark.parametrize("left", ["stale", "damaged", "nothing"])
def test_what_a_kernel_that_is_gone_left_is_no_hindrance(tmp_path, left):
    file = tmp_path / claim_module._FILE
    if left != "nothing":
        file.write_text(json.dumps({"id": "x", "since": "12:00"}) if left == "stale" else "{")
        if left == "stale":
            assert Claim(tmp_path).other() == "12:00"
            os.utime(file, (time.time() - 60, time.time() - 60))
    assert Claim(tmp_path).other() is None
    (tmp_path / claim_module._REQUEST).write_text("of long ago")
    stop = threading.Event()
    with Claim(tmp_path).held(stop):
        assert not stop.wait(3 * claim_module._BEAT)
    assert list(tmp_path.iterdir()) == []
