"""Pretraining of a bundled model on a GPU for some minutes, from tokens that were prepared beforehand.

`python data/build_corpus.py --tokens` prepares them; `python benchmarks/gpu.py --only pretrain-bert-mini` runs this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_corpus import ROOT
from pretrain import CLIP, HELD_OUT_ROWS, optimizer_of
from recipes import MIXTURE, RECIPES
from token_batches import HeldOutBatches, TrainingSteps
from torch import nn

import gdrop_viz as gv

DECAY = 0.7
"""The learning rate falls linearly to 0 over this last share of the time."""
_LOOK = 15
"""Seconds between two looks at the held-out loss."""


def pretrain_for(
    name: str, seconds: float, folder: Path, device: str, report: Callable[[dict[str, Any]], None], *, toy: bool = False
) -> None:
    """Train `name` for so many seconds from its shipped weights and write the best ones to `folder`.

    bfloat16 in the forward, float32 weights, fused AdamW, `torch.compile`; the text is drawn anew in each step, with
    fresh masks. The held-out loss is looked at as it goes; the weights of its minimum are kept, as fp16 files of at
    most 16 MB. `toy`: six small steps on random tokens, nothing compiled.
    """
    lm, recipe = gv.load_pretrained(name), RECIPES[name]
    streams = toy_streams(len(lm.tokenizer)) if toy else prepared_streams(name)
    size, lengths, rows = (512, (32,), 2) if toy else (64 * 1024, (128,), 4 * HELD_OUT_ROWS)
    noise = {training: recipe.corrupt(lm.tokenizer, training=training) for training in (True, False)}
    seed, most = int(time.time()), 6 if toy else 10**6
    data = TrainingSteps(streams["train"], MIXTURE, noise[True], n_steps=most, tokens=size, lengths=lengths, seed=seed)
    held_out = HeldOutBatches(streams["heldout"], noise[False], rows=rows, length=lengths[0])
    model = lm.model.to(device).train()
    if not recipe.dropout:
        gv.uniform_dropout(model, 0.0).apply(model)
    optimizer = optimizer_of(model, recipe)
    rates = [group["lr"] for group in optimizer.param_groups]
    forward = model if toy else torch.compile(model)

    def loss_of(model: Any, batch: Any) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            return model(**{key: value.to(device, non_blocking=True) for key, value in batch.items()}).loss

    def held_out_loss() -> float:
        model.eval()
        with torch.no_grad():
            losses = [loss_of(model, batch).item() for batch in held_out]
        model.train()
        return sum(losses) / len(losses)

    before = best = held_out_loss()
    kept = copied(model)
    report({"step": 0, "held-out loss": round(before, 4)})
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=0 if toy else 8, pin_memory=device == "cuda"
    )
    start = looked = time.monotonic()
    for step, batch in enumerate(loader, 1):
        spent = (time.monotonic() - start) / seconds
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(step / recipe.warmup_steps, 1.0, max(0.0, 1 - spent) / DECAY)
        loss_of(forward, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = spent >= 1 or step == most
        if last or time.monotonic() - looked > _LOOK:
            looked, now = time.monotonic(), held_out_loss()
            row = {"step": step, "tokens": step * size, "seconds": round(looked - start)}
            report({**row, "held-out loss": round(now, 4)})
            if now < best:
                best, kept = now, copied(model)
        if last:
            break
    model.cpu().load_state_dict(kept)
    model.half().save_pretrained(folder, max_shard_size="16MB")
    lm.tokenizer.save_pretrained(folder)
    report({"before": round(before, 4), "best": round(best, 4), "written to": str(folder)})


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def tokens_file(name: str) -> Path:
    """Where the prepared tokens of a model lie."""
    return ROOT / "build" / "tokens" / f"{name}.npz"


def prepared_streams(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Part -> source -> token numbers."""
    if not tokens_file(name).is_file():
        raise SystemExit(
            f"expected {tokens_file(name).relative_to(ROOT)}: run `python data/build_corpus.py --tokens` first"
        )
    with np.load(tokens_file(name)) as file:
        return {part: {source: file[f"{source}-{part}"] for source in MIXTURE} for part in ("train", "heldout")}


def toy_streams(vocabulary: int) -> dict[str, dict[str, np.ndarray]]:
    """Random tokens in place of the prepared ones."""
    rng = np.random.default_rng(0)
    draw = {
        part: {s: rng.integers(100, vocabulary, 2000).astype(np.uint16) for s in MIXTURE}
        for part in ("train", "heldout")
    }
    return draw


def prepare_tokens() -> None:
    """Write the token numbers of all text for each bundled model, compressed, with the tokenizer that it ships with."""
    from token_batches import token_stream

    for name, recipe in RECIPES.items():
        tokenizer = gv.load_pretrained(name).tokenizer
        folder = ROOT / "build" / "tokens" / name
        streams = {
            f"{source}-{part}": token_stream(
                ROOT / "build" / "corpus" / f"{source}-{part}.txt",
                tokenizer,
                folder,
                separator=recipe.separator(tokenizer),
            )
            for source in MIXTURE
            for part in ("train", "heldout")
        }
        tokens_file(name).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(tokens_file(name), **streams)
        tokens, megabytes = sum(map(len, streams.values())), tokens_file(name).stat().st_size / 1e6
        print(f"{name}: {tokens:,} tokens, {megabytes:.1f} MB in {tokens_file(name).relative_to(ROOT)}")
