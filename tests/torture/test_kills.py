"""Killed work that resumes, loses at most one unit and ends with the same bits; and a test that would notice.

In a process of its own: a fork cannot run backward passes once its parent has run one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from tests.torture import guards, kills
from tests.torture.book import Book
book = Book()
for name, most in (("Fisher, means per tensor", 2), ("loss surface", 2), ("comparison", 1), ("atomic write", 3)):
    book.do(name, lambda: kills.trial(name, 0, most=most))
    book.do(f"{name}, between units", lambda: kills.trial(name, 0, most=1, units=2))
for guard, name in guards.OF_KILLS.items():
    with guards.removed(guard):
        book.do(f"without {guard}", lambda: kills.trial(name, 1, most=6, units=3))
print(json.dumps(book.outcomes))
"""


@pytest.fixture(scope="module")
def outcomes():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["Fisher, means per tensor", "loss surface", "comparison", "atomic write"])
def test_killed_work_ends_the_same(outcomes, name):
    at_random, between_units = outcomes[name], outcomes[f"{name}, between units"]
    assert at_random["failed"] is None
    assert between_units["failed"] is None
    assert max(at_random["lost"], between_units["lost"]) <= 1
    assert between_units["kills"] == 1


@pytest.mark.parametrize("guard", ["renaming", "clearing up", "a checkpoint after each batch"])
def test_it_fails_without_the_guard(outcomes, guard):
    assert outcomes[f"without {guard}"]["failed"], "the guard was removed and nobody noticed"
