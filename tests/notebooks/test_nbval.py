"""A broken lesson is caught where the lessons run as tests."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSON = ROOT / "notebooks" / "00_start_here.ipynb"


def run_as_test(path: Path) -> tuple[int, str]:
    """Run one notebook as `make test` runs the lessons; return pytest's exit status and report."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    settings = str(ROOT / "notebooks" / "pytest.ini")
    command = [sys.executable, "-m", "pytest", "-c", settings, "--rootdir", str(path.parent), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path.parent, timeout=600)
    return done.returncode, done.stdout + done.stderr


def up_to_first_check(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The lesson's beginning up to its first checked cell, so that the test is quick."""
    checked = [i for i, cell in enumerate(notebook.cells) if "nbval-check-output" in cell.metadata.get("tags", [])]
    short = copy.deepcopy(notebook)
    short.cells = short.cells[: checked[0] + 1]
    return short


@pytest.mark.slow
def test_a_sound_lesson_passes_and_a_broken_copy_fails(tmp_path: Path) -> None:
    sound = up_to_first_check(nbformat.read(LESSON, as_version=4))

    wrong_number = copy.deepcopy(sound)
    stream = wrong_number.cells[-1].outputs[0]
    digit = next(character for character in stream.text if character.isdigit())
    stream.text = stream.text.replace(digit, str((int(digit) + 1) % 10), 1)

    fails = copy.deepcopy(sound)
    fails.cells[-1].source = "1 / 0"

    passed = {}
    for name, notebook in {"sound": sound, "wrong_number": wrong_number, "fails": fails}.items():
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(notebook, path)
        status, report = run_as_test(path)
        assert status in (0, 1), report  # 0: all passed, 1: some failed; anything else: it did not run at all
        passed[name] = (status == 0, report)
    assert passed["sound"][0], passed["sound"][1]
    assert not passed["wrong_number"][0]
    assert "mismatch" in passed["wrong_number"][1]
    assert not passed["fails"][0]
