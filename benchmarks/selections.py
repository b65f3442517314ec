"""Time and peak memory of what ranks every element: top, bottom and random parts, places of the top, concentration.

    python benchmarks/selections.py                 # BERT-base, 110 million scores
    python benchmarks/selections.py --layers 30     # more layers of the same shapes

Scores are drawn (a third of the embedding's are 0, as of words that no text held), not estimated. Each call runs in a
process of its own; MB are the kernel's high-water mark of resident memory (VmHWM), set back before the call, above what
is resident then. A result's masks, a byte for each element, are part of the figure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fisher_memory import PROMPT_FREE, resident

import gdrop_viz as gv

CALLS = {
    "top_k, 1 %": lambda fisher: gv.top_k(fisher, 0.01),
    "bottom_k, 1 %": lambda fisher: gv.bottom_k(fisher, 0.01),
    "random_k, 1 %": lambda fisher: gv.random_k(fisher, 0.01),
    "located, 1 %": lambda fisher: fisher.located(0.01),
    "concentration": lambda fisher: fisher.concentration(),
}


def made_up(layers: int) -> gv.Fisher:
    """Scores of the shapes of BERT-base's tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"bert.embeddings.word_embeddings.weight": (30522, 768)}
    for layer in range(layers):
        place = f"bert.encoder.layer.{layer}"
        shapes |= {f"{place}.attention.self.{name}.weight": (768, 768) for name in ("query", "key", "value", "output")}
        shapes |= {f"{place}.intermediate.dense.weight": (3072, 768), f"{place}.output.dense.weight": (768, 3072)}
    scores = {name: torch.randn(shape, generator=generator).square_().square_() for name, shape in shapes.items()}
    scores["bert.embeddings.word_embeddings.weight"][::3] = 0
    means = pd.Series({name: float(score.mean(dtype=torch.float64)) for name, score in scores.items()})
    return gv.Fisher(
        means=means, standard_errors=means * 0, n_sequences=1, estimator="empirical", resolution="element",
        shapes=shapes, scores=scores, history=pd.DataFrame(),
    )  # fmt: skip


def measured(name: str, layers: int) -> tuple[float, float]:
    """CPU seconds and MB of one call, in this process."""
    torch.set_num_threads(1)
    fisher = made_up(layers)
    CALLS[name](made_up(0))  # libraries are loaded by the first call, whatever its size
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmRSS"), time.process_time()
    found = CALLS[name](fisher)
    seconds, peak = time.process_time() - start, resident("VmHWM") - before
    del found
    return seconds, peak


def main() -> None:
    """Print one row per call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--call", choices=CALLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        seconds, peak = measured(arguments.call, arguments.layers)
        print(f"| {arguments.call} | {seconds:.1f} | {peak:.0f} |")
        return
    scores = 30522 * 768 + arguments.layers * (4 * 768**2 + 2 * 768 * 3072)
    print(f"{scores / 1e6:.0f} million scores, {4 * scores / (1 << 20):.0f} MB\n")
    print("| call | CPU s | MB above the scores |\n|---|---|---|", flush=True)
    for name in CALLS:
        command = [sys.executable, __file__, "--call", name, "--layers", str(arguments.layers)]
        print(
            subprocess.run(
                command, env=os.environ | PROMPT_FREE, check=True, text=True, capture_output=True
            ).stdout.strip()
        )


if __name__ == "__main__":
    main()
