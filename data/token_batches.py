"""Batches of one training step from text.

Every source is one long stream of token ids on disk. A step draws rows at random places of the streams, by weight,
from a generator seeded by (seed, step): any step can be made again without the ones before it, which is what makes a
run resumable to the bit of data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

IGNORE = -100


def token_stream(text: Path, tokenizer: PreTrainedTokenizerFast, folder: Path, *, separator: int | None) -> np.ndarray:
    """Return the token ids of a text file as a memory map, made on first use; `separator` ends each paragraph."""
    path = folder / f"{text.stem}.npy"
    if not path.is_file() or path.stat().st_mtime < text.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        end = [] if separator is None else [separator]
        ids = np.fromiter(_token_ids(text, tokenizer, end), dtype=np.uint16)
        np.save(path, ids)
    return np.load(path, mmap_mode="r")


def _token_ids(text: Path, tokenizer: PreTrainedTokenizerFast, end: list[int]) -> Iterator[int]:
    lines = text.read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), 2000):
        for ids in tokenizer(lines[start : start + 2000], add_special_tokens=False, verbose=False)["input_ids"]:
            yield from ids
            yield from end


@dataclass(frozen=True)
class Masking:
    """Masked language modelling: `[CLS] text [SEP]`; of the masked tokens 80 % read [MASK], 10 % another word.

    Devlin et al. 2019, section 3.1. `rate` is the share of the text's tokens that must be predicted.
    """

    cls: int
    sep: int
    mask: int
    vocabulary: int
    rate: float
    shifted: ClassVar[bool] = False

    def n_text(self, length: int) -> int:
        """Return how many tokens of text a sequence of `length` holds."""
        return length - 2

    def __call__(self, text: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        rows, n = text.shape
        k = max(1, round(self.rate * n))
        chosen = rng.random(text.shape).argpartition(k, axis=1)[:, :k]
        labels = np.full_like(text, IGNORE)
        np.put_along_axis(labels, chosen, np.take_along_axis(text, chosen, 1), 1)
        dice = rng.random((rows, k))
        shown = np.where(dice < 0.9, rng.integers(0, self.vocabulary, (rows, k)), np.take_along_axis(text, chosen, 1))
        corrupted = text.copy()
        np.put_along_axis(corrupted, chosen, np.where(dice < 0.8, self.mask, shown), 1)
        column = np.ones((rows, 1), dtype=np.int64)
        ids = np.hstack([self.cls * column, corrupted, self.sep * column])
        labels = np.hstack([IGNORE * column, labels, IGNORE * column])
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


@dataclass(frozen=True)
class Causal:
    """Causal language modelling: each token from those before it; the loss shifts the labels."""

    shifted: ClassVar[bool] = True

    def n_text(self, length: int) -> int:
        """Return how many tokens of text a sequence of `length` holds."""
        return length

    def __call__(self, text: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(text)
        return {"input_ids": ids, "labels": ids.clone()}


@dataclass(frozen=True)
class SpanCorruption:
    """Span corruption: spans become sentinels, the target spells them out (Raffel et al. 2020, section 3.1.4).

    All rows of a batch have the same number of noise tokens and of spans, so no padding is needed. With `highest_rate`
    each batch draws its rate between `rate` and that one: a model that always sees the same number of spans in
    training learns to count them, and is taken by surprise (measured: 0.3 nats a token) where there are fewer.
    """

    sentinels: tuple[int, ...]
    eos: int
    rate: float = 0.15
    highest_rate: float | None = None
    mean_span: float = 3.0
    shifted: ClassVar[bool] = False

    def n_text(self, length: int) -> int:
        """Return how many tokens of text a sequence of `length` holds."""
        return length

    def __call__(self, text: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        n = text.shape[1]
        rate = self.rate if self.highest_rate is None else rng.uniform(self.rate, self.highest_rate)
        n_noise = max(1, round(rate * n))
        n_spans = min(len(self.sentinels), max(1, round(n_noise / self.mean_span)))
        inputs, labels = [], []
        for row in text:
            gaps, spans = self._parts(n - n_noise, n_spans, rng), self._parts(n_noise, n_spans, rng)
            at, source, target = 0, [], []
            for sentinel, gap, span in zip(self.sentinels, gaps, spans, strict=False):
                source += [row[at : at + gap], [sentinel]]
                target += [[sentinel], row[at + gap : at + gap + span]]
                at += gap + span
            inputs.append(np.concatenate([*source, [self.eos]]))
            labels.append(np.concatenate([*target, [self.eos]]))
        return {name: torch.from_numpy(np.stack(rows)) for name, rows in (("input_ids", inputs), ("labels", labels))}

    @staticmethod
    def _parts(total: int, n: int, rng: np.random.Generator) -> np.ndarray:
        """Split `total` into `n` positive integers, uniformly over all ways."""
        cuts = np.sort(rng.choice(total - 1, n - 1, replace=False)) + 1
        return np.diff(np.concatenate([[0], cuts, [total]]))


Corruption = Masking | Causal | SpanCorruption


class TrainingSteps(Dataset):
    """The batches of a run, one item per optimizer step."""

    def __init__(
        self,
        streams: dict[str, np.ndarray],
        weights: dict[str, float],
        corrupt: Corruption,
        *,
        n_steps: int,
        tokens: int,
        lengths: tuple[int, ...],
        seed: int,
    ) -> None:
        self.streams, self.corrupt, self.n_steps, self.tokens = streams, corrupt, n_steps, tokens
        self.lengths, self.seed = lengths, seed
        share = np.array([weights[source] for source in streams])
        self.share = share / share.sum()

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        length = self.lengths[step % len(self.lengths)]
        n = self.corrupt.n_text(length)
        rows = []
        for source in rng.choice(len(self.streams), self.tokens // length, p=self.share):
            stream = list(self.streams.values())[source]
            start = rng.integers(len(stream) - n + 1)
            rows.append(stream[start : start + n])
        return self.corrupt(np.stack(rows).astype(np.int64), rng)


def held_out_rows(stream: np.ndarray, n: int, rows: int) -> np.ndarray:
    """Return at most `rows` rows of `n` token ids at even distances over the whole stream, without overlap."""
    most = min(rows, len(stream) // n)
    starts = np.linspace(0, len(stream) - n, most).astype(int)
    return np.stack([stream[start : start + n] for start in starts]).astype(np.int64)


class HeldOutBatches(Dataset):
    """Fixed batches of several held-out streams, one batch per stream; the noise is drawn once from `seed`."""

    def __init__(
        self, streams: dict[str, np.ndarray], corrupt: Corruption, *, rows: int, length: int, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        n = corrupt.n_text(length)
        self.batches = [corrupt(held_out_rows(stream, n, rows), rng) for stream in streams.values()]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.batches[i]
