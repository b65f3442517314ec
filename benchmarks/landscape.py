"""Cost of a loss surface above pure inference, and beside the naive way and other tools.

    python benchmarks/landscape.py                       # a BERT of 5.4M parameters, 5 x 5 points
    python benchmarks/landscape.py --model bert-mini --points 9 --rounds 5

The unit is `points` x one plain no-grad pass over the same batches, with the head at predicted positions only. The
contestants take turns in one process; the figure is the median of the rounds' ratios of CPU time (user + system, all
threads), which a busy machine disturbs least, and wall time beside it. The naive way is what the paper's authors do:
at each point load the model from disk, add the directions, mask the text anew, and evaluate with the full head. Peers
are measured if they are installed (landscape_peers.py), with the plain pass as their loss.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gdrop_viz as gv
from benchmarks.landscape_peers import installed_peers
from gdrop_viz.landscape import loss_surface
from gdrop_viz.perturbation import Direction, random_direction


def the_model(name: str, n_sequences: int) -> tuple[Any, Any]:
    """The model and its batches: a bundled or hub model on its corpus, or "random": a 4 x 256 BERT on random tokens."""
    if name != "random":
        lm = gv.load_pretrained(name)
        return lm.model, gv.pretraining_batches(lm, n_sequences=n_sequences, batch_size=16, max_length=128)
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    batches = []
    for first in range(0, n_sequences, 16):
        ids = torch.randint(5, 8000, (min(16, n_sequences - first), 128))
        labels = ids.masked_fill(torch.rand(ids.shape) >= 0.15, -100)
        labels[:, 0] = ids[:, 0]
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return BertForMaskedLM(config).eval(), batches


@torch.no_grad()
def plain_pass(model: torch.nn.Module, batches: Sequence[dict[str, torch.Tensor]]) -> float:
    """One pass of inference: what a point must cost at least."""
    return float(torch.cat([gv.sequence_losses(model, batch) for batch in batches]).mean())


@torch.no_grad()
def naive_surface(folder: str, batches: Sequence[Any], plane: Sequence[Direction], points: int) -> None:
    """Load, move, mask and evaluate at each point."""
    from transformers import AutoModelForMaskedLM

    for x in torch.linspace(-1, 1, points):
        for y in torch.linspace(-1, 1, points):
            model = AutoModelForMaskedLM.from_pretrained(folder).eval()
            for step, direction in zip((x, y), plane, strict=True):
                for name, vector in direction.vectors.items():
                    model.get_parameter(name).add_(vector, alpha=float(step))
            for batch in batches:
                ids = batch["input_ids"]
                masked = (torch.rand(ids.shape) < 0.15) & batch["attention_mask"].bool()
                model(**{**batch, "labels": ids.masked_fill(~masked, -100)})


def timed(contestant: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds; what it prints is swallowed."""
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        contestant()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print one row per contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help='bundled name, folder, hub id, or "random"')
    parser.add_argument("--points", type=int, default=5, help="per axis")
    parser.add_argument("--sequences", type=int, default=32, help="at each point, 128 tokens each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip", nargs="*", default=[], help="contestants to leave out, such as naive")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, batches = the_model(given.model, given.sequences)
    plane = [random_direction(model, seed=seed) for seed in (0, 1)]
    n = given.points**2
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = iter(range(10**6))

        def ours() -> None:
            path = Path(folder) / f"{next(files)}.h5"
            loss_surface(model, batches, plane, points=given.points, path=path, progress=False)

        def unit() -> None:
            for _ in range(n):
                plain_pass(model, batches)

        contestants = {
            f"{n} plain passes": unit,
            "gdrop_viz, every point on disk": ours,
            "naive": lambda: naive_surface(folder, batches, plane, given.points),
            **installed_peers(model, batches, plane, given.points, plain_pass),
        }
        contestants = {name: run for name, run in contestants.items() if name not in given.skip}
        plain_pass(model, batches)  # warm up
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        with contextlib.suppress(KeyboardInterrupt):  # the rounds that are whole are shown all the same
            for number in range(given.rounds):
                for name, contestant in contestants.items():
                    seconds[name].append(timed(contestant))
                print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    whole = min(map(len, seconds.values()))
    if not whole:
        sys.exit("interrupted before the first round was whole")
    seconds = {name: times[:whole] for name, times in seconds.items()}
    units = seconds[f"{n} plain passes"]
    size = sum(p.numel() for p in model.parameters())
    print(f"{type(model).__name__}, {size:,} parameters, {n} points, {whole} rounds, {given.threads} threads")
    print(f"{'':32}{'CPU s':>9}{'x plain':>9}{'(range)':>15}{'wall s':>9}{'x plain':>9}")
    for name, times in seconds.items():
        cpu = [own[0] / unit[0] for own, unit in zip(times, units, strict=True)]
        wall = [own[1] / unit[1] for own, unit in zip(times, units, strict=True)]
        row = [statistics.median(own[i] for own in times) for i in (0, 1)]
        span = f"{min(cpu):.2f}-{max(cpu):.2f}"
        print(
            f"{name:32}{row[0]:9.2f}{statistics.median(cpu):9.3f}{span:>15}{row[1]:9.2f}{statistics.median(wall):9.3f}"
        )


if __name__ == "__main__":
    main()
