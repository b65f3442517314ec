"""Cells that make a tiny model, its text and its scores, for notebooks that only try the panels."""

from __future__ import annotations

MODEL = """
import torch
torch.set_num_threads(1)
import gdrop_viz as gv
from tests.conftest import random_bert, sentences, word_tokenizer
lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
batches = gv.pretraining_batches(lm, sentences(40), n_sequences=24, batch_size=8, max_length=12)
fisher = gv.fisher_information(lm.model, batches, method="batched", progress=False)
"""

TASK = """
import gdrop_viz.finetuning.trainer  # the Trainer takes seconds to import: not within the first Run
from gdrop_viz.text.tasks import Task
from tests.finetuning.conftest import animal_rows
task = Task("animals", train=animal_rows(96, seed=0), validation=animal_rows(40, seed=1))
"""

LAB = """
lab = gv.DropoutLab(lm, task, fisher, path={path!r}, n_seeds={n_seeds}, epochs=2, arms=("guided", "standard 0.1"),
                    batch_size=8)
lab
"""
