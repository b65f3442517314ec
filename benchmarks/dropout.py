"""Training time of a schedule: steps with a guided schedule against one uniform rate, interleaved.

Run it from the repository: `python benchmarks/dropout.py [--steps 60]`. One model takes training steps (forward,
backward, AdamW) under the two schedules in turn, in the order A B B A, so that a drift of the machine falls on both.
Times are CPU seconds of the process on one thread, which other programs disturb less than wall time. A second uniform
schedule, measured in the same way, shows what ratio two equal things get here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gdrop_viz as gv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each schedule")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    config = BertConfig(
        vocab_size=2000,
        hidden_size=arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=max(1, arguments.width // 64),
        intermediate_size=4 * arguments.width,
    )
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(5, config.vocab_size, (arguments.batch_size, arguments.length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def step() -> float:
        start = time.process_time()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - start

    uniform = gv.uniform_dropout(model, 0.1)
    scores = {name: float(i + 1) for i, (name, _) in enumerate(model.named_parameters())}
    guided = gv.guided_dropout(model, gv.Fisher.from_means(scores), lower=0.0, upper=0.1)
    for _ in range(3):
        step()

    for label, other in (("guided / uniform", guided), ("uniform / uniform", uniform)):
        times: dict[str, list[float]] = {"other": [], "uniform": []}
        for i in range(arguments.steps):
            pair = [("other", other), ("uniform", uniform)]
            for name, schedule in pair if i % 2 else pair[::-1]:
                schedule.apply(model)
                times[name].append(step())
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratios = sorted(a / b for a, b in zip(times["other"], times["uniform"], strict=True))
        quartiles = statistics.quantiles(ratios, n=4)
        print(
            f"{label}: {medians['other'] * 1e3:.1f} / {medians['uniform'] * 1e3:.1f} ms CPU a step, "
            f"ratio of medians {medians['other'] / medians['uniform']:.3f} "
            f"(pairs: quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}, n = {arguments.steps})"
        )


if __name__ == "__main__":
    main()
