"""A small model of words that a fresh process can import quickly: it predicts each word from the one before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdrop_viz.perturbation import Direction, random_direction

WORDS = 20


def scorer() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, WORDS))


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input": torch.randint(WORDS, (4, 7), generator=generator)} for _ in range(3)]


def plane() -> list[Direction]:
    return [random_direction(scorer(), seed=seed) for seed in (0, 1)]


def word_losses(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs[:, :-1].transpose(1, 2), batch["input"][:, 1:], reduction="none").mean(1)


def accuracy(model: nn.Module, batches: list[dict[str, Tensor]]) -> float:
    with torch.no_grad():
        hits = [model(batch["input"])[:, :-1].argmax(-1) == batch["input"][:, 1:] for batch in batches]
    return float(torch.cat(hits).double().mean())
