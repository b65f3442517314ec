"""The Fisher engine beside per-sample-gradient tools, and beside the way of the method's authors.

    python benchmarks/fisher_peers.py authors            # in the project's environment
    python benchmarks/fisher_peers.py tools --shapes BA  # in one with Opacus; --shapes as in benchmarks/fisher.py

"tools": Opacus' GradSampleModule and torch.func's vmap(grad) beside the engine, each on one batch of a BERT classifier
(Opacus fails on BertForMaskedLM), each ending with the mean of the squared gradients of every parameter. Opacus wants
an environment of its own: pip install torch==2.13.0 transformers==5.23.0 opacus==1.6.0 pandas tqdm.
"authors": one sequence at a time, padded to the model's full length, the squared gradients of all sequences kept until
the end, beside gv.fisher_information on the same sentences of the bundled corpus, padded to their batch's longest.

Times are CPU time of contestants taking turns in one process; memory is the peak above the loaded model, of each in a
process of its own (see benchmarks/fisher_memory.py).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fisher import LENGTH, fisher_pass, plain, ratios
from fisher_memory import added_peak, in_a_process

import gdrop_viz as gv

Work = Callable[[], object]
PEERS = ("opacus", "vmap")
TOOLS = ("plain", "element", "tensor", *PEERS)  # element, tensor: ours, at either resolution
N_SEQUENCES = 100  # the authors keep the squared gradients of so many


# --- per-sample-gradient tools ---------------------------------------------------------------------------------------


def classifier(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A BERT classifier of shape A or B with random weights, and a batch."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    small = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
    n = 16 if name == "B" else 8
    config = BertConfig(
        attn_implementation="eager",
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **(small if name == "B" else {}),
    )
    ids = torch.randint(1000, config.vocab_size, (n, LENGTH))
    # a row of positions for each sequence, without which Opacus cannot tell them apart
    positions = torch.arange(LENGTH).repeat(n, 1)
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "position_ids": positions}
    return BertForSequenceClassification(config).eval(), {**batch, "labels": torch.randint(2, (n,))}


def opacus_pass(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Work:
    from opacus import GradSampleModule

    # it records nothing in eval mode; the configuration has no dropout, so the numbers are the same
    wrapped = GradSampleModule(model.train(), loss_reduction="sum")

    def run() -> dict[str, torch.Tensor]:
        wrapped.zero_grad(set_to_none=True)
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = wrapped(**inputs).logits
        torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum").backward()
        scores = {}
        for name, parameter in model.named_parameters():
            scores[name] = parameter.grad_sample.square_().mean(0)
            parameter.grad_sample = None
        return scores

    return run


def vmap_pass(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Work:
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, torch.Tensor], row: dict[str, torch.Tensor]) -> torch.Tensor:
        one = {key: value.unsqueeze(0) for key, value in row.items()}
        labels = one.pop("labels")
        logits = torch.func.functional_call(model, (weights, buffers), kwargs=one).logits
        return torch.nn.functional.cross_entropy(logits, labels)

    per_sequence = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))

    def run() -> dict[str, torch.Tensor]:
        return {name: gradient.square_().mean(0) for name, gradient in per_sequence(parameters, batch).items()}

    return run


def tool(name: str, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Work:
    if name == "plain":
        return lambda: plain(model, batch)
    if name in ("element", "tensor"):
        return fisher_pass(model, batch, name)
    return (opacus_pass if name == "opacus" else vmap_pass)(model, batch)


def check(name: str, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Largest difference of a tool's scores from the engine's, relative to each tensor's largest (zero ones aside)."""
    scores = gv.fisher_information(copy.deepcopy(model), [batch], method="batched", progress=False).scores
    found = tool(name, model, batch)()
    most = max(float(score.max()) for score in scores.values())
    differences = [
        float((found[key] - score).abs().max() / score.max())
        for key, score in scores.items()
        if float(score.max()) > 1e-12 * most
    ]
    return max(differences)


def compare_tools(shapes: str, rounds: int) -> None:
    for shape in shapes:
        model, batch = classifier(shape)
        for name in PEERS:
            few = {key: value[:2] for key, value in batch.items()}
            difference = check(name, copy.deepcopy(model), few)
            print(f"{shape}  {name}: scores within {difference:.1e} of the engine's")
        found = ratios({name: tool(name, copy.deepcopy(model), batch) for name in TOOLS}, rounds)
        for name in TOOLS:
            extra = in_a_process(__file__, "tools", "--one", shape, name)
            print(f"{shape}  {name:8s} {found[name]:.2f} x plain, peak {extra:+.0f} MB", flush=True)


# --- the authors' way ------------------------------------------------------------------------------------------------


def sentences(batch_size: int) -> tuple[gv.Pretrained, list[dict[str, torch.Tensor]]]:
    lm = gv.load_pretrained("bert-mini")
    length = lm.model.config.max_position_embeddings
    batches = gv.pretraining_batches(
        lm, n_sequences=N_SEQUENCES, batch_size=batch_size, max_length=length, progress=False
    )
    return lm, [dict(batch) for batch in batches]


def padded(lm: gv.Pretrained, batches: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Single sequences, padded to the model's full length."""
    length = lm.model.config.max_position_embeddings
    filling = {"input_ids": lm.tokenizer.pad_token_id, "labels": -100}
    return [
        {
            key: torch.nn.functional.pad(value[n : n + 1], (0, length - value.shape[1]), value=filling.get(key, 0))
            for key, value in batch.items()
        }
        for batch in batches
        for n in range(len(batch["labels"]))
    ]


def authors_way(lm: gv.Pretrained, singles: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    parameters = dict(lm.model.named_parameters())
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in parameters}
    for one in singles:
        lm.model.zero_grad(set_to_none=True)
        lm.model(**one).loss.backward()
        for name, parameter in parameters.items():
            kept[name].append(parameter.grad.square())
    return {name: torch.stack(kept.pop(name)).mean(0) for name in parameters}


def compare_with_authors() -> None:
    lm, batches = sentences(16)
    singles = padded(lm, batches)
    start = time.process_time()
    ours = gv.fisher_information(lm.model, batches, progress=False)
    middle = time.process_time()
    theirs = authors_way(lm, singles)
    end = time.process_time()
    most = float(ours.means.max())
    difference = max(abs(float(theirs[name].mean()) - mean) / most for name, mean in ours.means.items())
    tokens = statistics.mean(int(one["attention_mask"].sum()) for one in singles)
    length = singles[0]["labels"].shape[1]
    print(f"{len(singles)} sequences of {tokens:.0f} tokens on average; theirs padded to {length}")
    print(f"means of tensors differ by at most {difference:.1e} of the largest")
    mine, others = middle - start, end - middle
    print(f"CPU time: {mine:.1f} s, the authors' way {others:.1f} s: {others / mine:.1f} x")
    for name in ("ours", "authors"):
        print(f"{name}: peak {in_a_process(__file__, 'authors', '--one', 'bert-mini', name):+.0f} MB", flush=True)


# --- memory ----------------------------------------------------------------------------------------------------------


def peak(kind: str, shape: str, name: str) -> float:
    """MB above the loaded model, in this process."""
    if kind == "tools":
        model, batch = classifier(shape)
        plain(model, {key: value[:1, :8] if value.dim() == 2 else value[:1] for key, value in batch.items()})
        model.zero_grad(set_to_none=True)
        work = lambda: tool(name, model, batch)()  # noqa: E731 (what it sets up counts too)
    else:
        lm, batches = sentences(16)
        gv.fisher_information(lm.model, batches[:1], resolution="tensor", progress=False)
        work = (
            (lambda: gv.fisher_information(lm.model, batches, progress=False))
            if name == "ours"
            else (lambda: authors_way(lm, padded(lm, batches)))
        )
    return added_peak(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tools", "authors"))
    parser.add_argument("--shapes", default="BA")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(peak(options.what, *options.one)))
    elif options.what == "tools":
        compare_tools(options.shapes, options.rounds)
    else:
        compare_with_authors()


if __name__ == "__main__":
    main()
