"""Cost of the Fisher engine against one ordinary backward pass.

    python benchmarks/fisher.py            # shapes A, B, C; element and tensor resolution
    python benchmarks/fisher.py --shapes B --rounds 9
    python benchmarks/fisher.py --with-bare   # what is left if no parameter had a gradient

Baseline "plain": one batched forward + backward of the same Hugging Face model on the same batch with labels. The
contestants take turns in one process; the figure is the median of the rounds' ratios of CPU time (user + system, all
threads), which a busy machine disturbs least. Memory: benchmarks/fisher_memory.py; other tools and the authors' way:
benchmarks/fisher_peers.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gdrop_viz.base.state import preserved_requires_grad
from gdrop_viz.fisher.batch import Objective, Part, add_batched
from gdrop_viz.fisher.self_check import first_two, self_check
from gdrop_viz.fisher.sums import Sums
from gdrop_viz.models.losses import sequence_losses

LENGTH = 128


def shape(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Model with random weights and a batch: A = BERT-base, B = 4 x 256 BERT, C = GPT-2-small."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    if name == "C":
        model, n = GPT2LMHeadModel(GPT2Config()), 8
    elif name == "B":
        config = BertConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
        model, n = BertForMaskedLM(config), 16
    else:
        model, n = BertForMaskedLM(BertConfig()), 8
    ids = torch.randint(1000, model.config.vocab_size, (n, LENGTH))
    labels = ids.clone()
    if name != "C":
        labels[torch.rand(n, LENGTH) >= 0.15] = -100
        labels[:, 0] = ids[:, 0]
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def plain(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """One ordinary training pass."""
    model.zero_grad(set_to_none=False)
    model(**batch).loss.backward()


def fisher_pass(model: torch.nn.Module, batch: dict[str, torch.Tensor], resolution: str) -> Callable[[], None]:
    """One batch of the running estimation: sums and accumulators exist already, as in a long run."""
    parameters = dict(model.named_parameters())
    sums = Sums.of(parameters, elements=resolution == "element")

    def run() -> None:
        sums.begin(len(batch["labels"]))
        add_batched(model, parameters, Part(batch), sums, Objective())
        sums.end("the batch")

    return run


def bare_pass(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Forward and backward from the losses to the embeddings, no gradient of any weight: what no engine can save."""

    def run() -> None:
        with preserved_requires_grad(model):
            hook = model.get_input_embeddings().register_forward_hook(lambda _, args, out: out.requires_grad_())
            try:
                sequence_losses(model, batch).sum().backward()
            finally:
                hook.remove()

    return run


def loop_pass(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """The naive way: one sequence at a time."""

    def run() -> None:
        for n in range(len(batch["labels"])):
            plain(model, {name: value[n : n + 1] for name, value in batch.items()})
            for parameter in model.parameters():
                parameter.grad.square_()

    return run


def ratios(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median ratio of each contestant's CPU time to "plain", taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    base = times["plain"]
    result = {n: statistics.median(t / b for t, b in zip(ts, base, strict=True)) for n, ts in times.items()}
    result["plain seconds"] = statistics.median(base)
    return result


def contestants(name: str, which: list[str]) -> dict[str, Callable[[], None]]:
    model, batch = shape(name)
    all_of_them = {
        "plain": lambda: plain(model, batch),
        "element": fisher_pass(model, batch, "element"),
        "tensor": fisher_pass(model, batch, "tensor"),
        "bare": bare_pass(model, batch),
        "loop": loop_pass(model, batch),
    }
    return {key: all_of_them[key] for key in ["plain", *which]}


def self_check_cost(name: str, rounds: int) -> float:
    """CPU time of the self-check of method="auto" as a share of a run over 256 sequences at element resolution."""
    model, batch = shape(name)
    parameters = dict(model.named_parameters())
    one_batch = fisher_pass(model, batch, "element")

    def check() -> None:
        self_check(model, parameters, first_two([batch]), Objective(), elements=True)

    one_batch(), check()
    shares = []
    for _ in range(rounds):
        start = time.process_time()
        one_batch()
        middle = time.process_time()
        check()
        run = (middle - start) * 256 / len(batch["labels"])
        shares.append((time.process_time() - middle) / run)
    return statistics.median(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="BAC")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--with-bare", action="store_true", help="a forward and backward without gradients of weights")
    parser.add_argument("--with-loop", action="store_true", help="the naive batch-1 loop too")
    parser.add_argument("--self-check", action="store_true", help="the share of the self-check in 256 sequences")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.shapes:
        if options.self_check:
            print(f"{name}  self-check: {self_check_cost(name, options.rounds):.1%} of a run over 256 sequences")
            continue
        which = ["element", "tensor"] + ["bare"] * options.with_bare + ["loop"] * options.with_loop
        result = ratios(contestants(name, which), options.rounds)
        seconds = result.pop("plain seconds")
        figures = "  ".join(f"{key} {value:.2f}" for key, value in result.items() if key != "plain")
        print(f"{name}  plain {seconds:.2f} CPU s  x plain: {figures}", flush=True)


if __name__ == "__main__":
    main()
