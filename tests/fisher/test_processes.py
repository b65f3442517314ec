"""Two processes (torchrun, gloo on the CPU) give the scores of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gdrop_viz as gv

SCRIPT = """
import sys
import torch.distributed as dist
sys.path.insert(0, {root!r})
from tests.conftest import random_bert, sentences, word_tokenizer
import gdrop_viz as gv

dist.init_process_group("gloo")
lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
batches = gv.pretraining_batches(lm, sentences(40), n_sequences=10, batch_size=2, max_length=12)
for resolution in ("element", "tensor"):
    fisher = gv.fisher_information(
        lm.model, batches, resolution=resolution, estimator="sampled", draws=2, progress=False
    )
    fisher.save({folder!r} + f"/{{resolution}}-{{dist.get_rank()}}.safetensors")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "run.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), folder=str(folder)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("resolution", ["element", "tensor"])
def test_every_process_has_the_scores_of_a_single_one(folder, tiny_lm, resolution):
    from tests.conftest import sentences

    batches = gv.pretraining_batches(tiny_lm, sentences(40), n_sequences=10, batch_size=2, max_length=12)
    alone = gv.fisher_information(
        tiny_lm.model, batches, resolution=resolution, estimator="sampled", draws=2, progress=False
    )
    for rank in (0, 1):
        together = gv.Fisher.load(folder / f"{resolution}-{rank}.safetensors", model=tiny_lm.model)
        assert together.n_sequences == alone.n_sequences == 10
        # the same float64 sums, added in another order
        np.testing.assert_allclose(together.means, alone.means, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(together.standard_errors, alone.standard_errors, rtol=1e-5, atol=1e-10)
        for name, score in (alone.scores or {}).items():
            torch.testing.assert_close(together.scores[name], score, rtol=1e-5, atol=1e-10)
