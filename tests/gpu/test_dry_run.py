"""The run for a GPU, proven at toy size on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("tests", "pretrain-gpt2-mini", "fisher", "largest", "surface", "comparison")


@pytest.mark.slow
def test_every_step_runs_and_writes_its_rows(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--only", ",".join(STEPS), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in STEPS:
        rows = [json.loads(line) for line in (tmp_path / f"{step}.jsonl").read_text().splitlines()]
        assert rows, step
        assert not any("failed" in row for row in rows), rows
    trained = [json.loads(line) for line in (tmp_path / "pretrain-gpt2-mini.jsonl").read_text().splitlines()]
    assert trained[-1]["best"] <= trained[-1]["before"]
    assert max(file.stat().st_size for file in (tmp_path / "gpt2-mini").glob("*.safetensors")) <= 16e6
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.stdout.count("done before") == len(STEPS)


def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--output", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    )
    assert done.returncode == 2
    assert "expected a CUDA GPU" in done.stderr
