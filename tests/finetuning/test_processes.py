"""Do two processes (torchrun, gloo on the CPU) fine-tune as one does?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gdrop_viz as gv
from tests.finetuning.conftest import animal_rows

ROOT = Path(__file__).parents[2]
# 41 rows in batches of 8: the last batch has one row, for two processes
SIZES = {"rows": 41, "validation": 30}
SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "seeds": [0, 1], "progress": False}

SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
from tests.conftest import random_bert, word_tokenizer
from tests.finetuning.test_processes import compared
import gdrop_viz as gv

lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
result = compared(lm, path={folder!r} + "/runs")
from gdrop_viz.base.processes import n_processes, rank
assert n_processes() == 2
result.save({folder!r} + f"/{{rank()}}.json")
"""


def compared(lm, **more) -> gv.Comparison:
    """Without dropout: its masks belong to a process, so with dropout the processes agree in distribution only."""
    train, validation = animal_rows(SIZES["rows"], seed=0), animal_rows(SIZES["validation"], seed=1)
    task = gv.Task("animals", train=train, validation=validation)
    lm.model.config.classifier_dropout = 0.0
    return gv.compare(lm, task, {"none": None}, fractions=[1.0, 0.5], **SETTINGS, **more)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_train_as_one(launcher, tiny_lm, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    if launcher == "accelerate":
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
        command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script)], capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = compared(tiny_lm)
    for rank in (0, 1):
        together = gv.Comparison.load(tmp_path / f"{rank}.json")
        columns = ["arm", "fraction", "seed", "epoch", "split", "metric"]
        assert together.runs[columns].equals(alone.runs[columns])
        # the same gradients, added in another order, through AdamW's division by small second moments
        np.testing.assert_allclose(together.runs["value"], alone.runs["value"], rtol=2e-3, atol=1e-4)
    assert len(list((tmp_path / "runs").iterdir())) == 4
    first = json.loads(next((tmp_path / "runs").iterdir()).read_text())
    assert first["rows"]


def test_a_batch_that_cannot_be_shared_is_refused(tiny_lm, toy_task, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="as a multiple of their number, got 9"):
        gv.fine_tune(tiny_lm, toy_task, 0.1, batch_size=9)
