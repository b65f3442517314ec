"""A fine-tuning run with dynamic padding against the same run padded to 512: time, and whether it is the same.

    python benchmarks/finetuning.py                      # sentiment, 64 training sentences, 4 x 256 BERT
    python benchmarks/finetuning.py --model bert-base-uncased --task glue/mrpc --examples 800

Two questions, two measurements:
* equal: without any dropout (also none before the head) and with the same order of batches, padding can change nothing
  but rounding; printed is the largest difference of any loss or metric after any epoch.
* faster: with the standard dropout of 0.1; the run as `gv.compare` does it (batches of similar lengths, padded to
  their longest) against random batches padded to 512 tokens. Runs take turns; the figure is the median of the rounds'
  ratios of CPU time (user + system, all threads), which a busy machine disturbs least. Evaluation is included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gdrop_viz as gv
from gdrop_viz.finetuning import fine_tune
from gdrop_viz.finetuning.encoding import encode

PADDED = {"padding": "max_length", "max_length": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="bert-mini")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--examples", type=int, default=64, help="training examples; half as many for validation")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    lm = gv.load_pretrained(arguments.model)
    task = gv.load_task(arguments.task)
    task = task.subset(n_train=arguments.examples, n_validation=max(2, arguments.examples // 2))
    lengths = [len(row["input_ids"]) for row in encode(lm, task.train, max_length=512)]
    print(f"{lm!r}\n{task.name}: {len(lengths)} examples of {np.mean(lengths):.0f} tokens (longest {max(lengths)})")
    fine_tune(lm, task.subset(n_train=16, n_validation=2), 0.1, epochs=1)  # imports, first allocations

    print(f"largest difference without dropout: {difference(lm, task, arguments.epochs):.2e}")

    ratios = []
    for number in range(arguments.rounds):
        ours = cpu_seconds(lm, task, epochs=arguments.epochs)
        theirs = cpu_seconds(lm, task, epochs=arguments.epochs, group_by_length=False, **PADDED)
        ratios.append(theirs / ours)
        print(f"round {number + 1}: dynamic {ours:.1f} s, padded to 512 {theirs:.1f} s, ratio {ratios[-1]:.1f}")
    print(f"median: {statistics.median(ratios):.1f} times faster")


def difference(lm: gv.Pretrained, task: gv.Task, epochs: int) -> float:
    """Largest difference of any loss or metric between a run padded dynamically and one padded to 512."""
    names = ("classifier_dropout", "summary_first_dropout", "classifier_dropout_prob", "hidden_dropout_prob")
    before = {name: getattr(lm.model.config, name) for name in names if hasattr(lm.model.config, name)}
    try:
        for name in before:
            setattr(lm.model.config, name, 0.0)
        # summation order is all that differs; single precision in three or four digits survives Adam's first steps
        dynamic = fine_tune(lm, task, None, epochs=epochs)
        padded = fine_tune(lm, task, None, epochs=epochs, **PADDED)
    finally:
        for name, value in before.items():
            setattr(lm.model.config, name, value)
    return float(np.abs(dynamic["value"] - padded["value"]).max())


def cpu_seconds(lm: gv.Pretrained, task: gv.Task, **settings: object) -> float:
    """CPU time of one run with the standard dropout."""
    start = time.process_time()
    fine_tune(lm, task, 0.1, **settings)
    return time.process_time() - start


if __name__ == "__main__":
    main()
