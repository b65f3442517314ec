"""Work that may be killed at any moment: in a fork of this process, which reports each finished unit."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

Report = Callable[[], None]

MOMENT = 0.005
"""Seconds from the unit that calls for a kill to the kill: time to have begun with the next one."""


@dataclass
class Ended:
    """How a child ended: its units reported, whether it was killed, and what it raised."""

    units: int
    killed: bool
    status: int
    error: str


def run_child(
    work: Callable[[Report], None],
    *,
    kill_after: float | None = None,
    kill_after_units: int | None = None,
    seconds: float = 120.0,
) -> Ended:
    """Call `work(report)` in a fork; SIGKILL it `kill_after` seconds after its start, or once so many units are done.

    With neither it is left to end, and killed as stuck after `seconds`.

    A fork starts in milliseconds, where a fresh interpreter would import torch for seconds; it needs a parent whose
    torch has not started threads.
    """
    if torch.get_num_threads() != 1:
        raise RuntimeError("forked children need torch.set_num_threads(1) in the parent")
    units, write_units = os.pipe()
    errors, write_error = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.close(units)
            os.close(errors)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work(lambda: os.write(write_units, b"."))
        except BaseException:
            os.write(write_error, traceback.format_exc()[-2000:].encode())
            code = 1
        finally:
            os._exit(code)
    os.close(write_units)
    os.close(write_error)
    deadline = time.monotonic() + (seconds if kill_after is None else kill_after)
    count = 0
    while True:  # the pipe closes when the child is gone
        left = deadline - time.monotonic()
        ready, _, _ = select.select([units], [], [], max(left, 0))
        if not ready:
            os.kill(child, signal.SIGKILL)
            deadline = time.monotonic() + 60
            continue
        data = os.read(units, 4096)
        if not data:
            break
        count += len(data)
        if kill_after_units is not None and count >= kill_after_units:
            time.sleep(MOMENT)
            os.kill(child, signal.SIGKILL)
    _, raw = os.waitpid(child, 0)
    error = os.read(errors, 4096).decode(errors="replace")
    os.close(units)
    os.close(errors)
    status = os.waitstatus_to_exitcode(raw)
    if status == -signal.SIGKILL and kill_after is None and kill_after_units is None:
        error = f"still at work after {seconds:g} seconds"
    return Ended(count, status == -signal.SIGKILL, status, error)
