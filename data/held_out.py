"""Held-out losses of a model, against models that see no context or one word of it.

All losses are means over the same predicted tokens, in nats. The two baselines are fitted on the training text of
the same source: the unigram model knows how often each token occurs (add-one smoothing), the bigram model also knows
the token to the left (absolute discounting 0.75, backing off to the unigram; Ney, Essen & Kneser 1994). Both are
cross-entropies on held-out text, not the entropy of the held-out counts themselves, which would flatter them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from token_batches import IGNORE, Corruption, held_out_rows
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

DISCOUNT = 0.75


@dataclass(frozen=True)
class HeldOut:
    """Mean losses in nats per predicted token of one source."""

    loss: float
    unigram: float
    bigram: float
    n_tokens: int
    characters_per_token: float


def token_losses(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the NLL in nats of every predicted token and the tokens themselves, both flat.

    A masked model's head is fed the predicted positions only: the same loss for a sixth of the head's work.
    """
    labels = batch["labels"]
    if model.config.model_type == "bert":
        chosen = labels != IGNORE
        hidden = model.bert(batch["input_ids"]).last_hidden_state[chosen]
        logits, targets = model.cls(hidden), labels[chosen]
    else:
        logits = model(**batch).logits
        if not model.config.is_encoder_decoder:
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits, targets = logits.flatten(0, 1), labels.flatten()
    return cross_entropy(logits.float(), targets, reduction="none"), targets


class CountModels:
    """Unigram and bigram models of a token stream."""

    def __init__(self, stream: np.ndarray, vocabulary: int) -> None:
        stream = np.asarray(stream, dtype=np.int64)
        self.vocabulary = vocabulary
        self.p_unigram = (np.bincount(stream, minlength=vocabulary) + 1) / (len(stream) + vocabulary)
        self.pairs, self.counts = np.unique(stream[:-1] * vocabulary + stream[1:], return_counts=True)
        left = self.pairs // vocabulary
        self.left_counts = np.bincount(left, weights=self.counts, minlength=vocabulary)
        self.left_kinds = np.bincount(left, minlength=vocabulary)

    def unigram(self, tokens: np.ndarray) -> np.ndarray:
        """Return -log p(token) of each token."""
        return -np.log(self.p_unigram[tokens])

    def bigram(self, tokens: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Return -log p(token | the token to its left); -1 on the left means unknown."""
        code = left * self.vocabulary + tokens
        at = np.minimum(np.searchsorted(self.pairs, code), len(self.pairs) - 1)
        count = np.where(self.pairs[at] == code, self.counts[at], 0)
        total = np.where(left >= 0, self.left_counts[left], 0)
        seen = total > 0
        discounted = np.maximum(count - DISCOUNT, 0) / np.where(seen, total, 1)
        backoff = np.where(seen, DISCOUNT * self.left_kinds[left] / np.where(seen, total, 1), 1.0)
        return -np.log(discounted + backoff * self.p_unigram[tokens])


@torch.no_grad()
def held_out_losses(
    model: PreTrainedModel, text: np.ndarray, corrupt: Corruption, *, seed: int = 0, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every predicted token of the rows of `text`: its loss, its row and its column in `text`.

    Tokens that are not text (T5's sentinels and end marks) are left out. The noise is drawn from `seed`.
    """
    model.eval()
    losses, columns, rows = [], [], []
    for start in range(0, len(text), batch_size):
        batch_text = text[start : start + batch_size]
        batch = corrupt(batch_text, np.random.default_rng([seed, start]))
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        # the same noise over the column numbers says which token of the text each label is; the offset tells
        # columns from sentinels and from ignored labels
        offset = 1 << 20
        numbered = np.tile(offset + np.arange(batch_text.shape[1]), (len(batch_text), 1))
        places = corrupt(numbered, np.random.default_rng([seed, start]))["labels"].numpy()
        if corrupt.shifted:
            places = places[:, 1:]
        row = np.broadcast_to(start + np.arange(len(places))[:, None], places.shape)
        kept = places != IGNORE
        loss = token_losses(model, batch)[0].double().cpu().numpy()
        is_text = places[kept] >= offset
        losses.append(loss[is_text])
        columns.append(places[kept][is_text] - offset)
        rows.append(row[kept][is_text])
    return np.concatenate(losses), np.concatenate(rows), np.concatenate(columns)


def measure(
    model: PreTrainedModel,
    held_out: np.ndarray,
    train: np.ndarray,
    corrupt: Corruption,
    *,
    n_characters: int,
    n_rows: int,
    length: int = 128,
) -> HeldOut:
    """Measure one source on rows at even distances of its held-out stream."""
    text = held_out_rows(held_out, corrupt.n_text(length), n_rows)
    losses, row, column = held_out_losses(model, text, corrupt)
    tokens = text[row, column]
    left = np.where(column > 0, text[row, column - 1], -1)
    counts = CountModels(train, model.config.vocab_size)
    return HeldOut(
        loss=float(losses.mean()),
        unigram=float(counts.unigram(tokens).mean()),
        bigram=float(counts.bigram(tokens, left).mean()),
        n_tokens=len(tokens),
        characters_per_token=n_characters / len(held_out),
    )


def held_out_slice(
    model: PreTrainedModel, held_out: np.ndarray, corrupt: Corruption, *, n_rows: int = 64, length: int = 128
) -> dict[str, float]:
    """Measure a small fixed slice, so that a test can repeat a stated figure within a second or two."""
    text = held_out_rows(held_out, corrupt.n_text(length), n_rows)
    losses = held_out_losses(model, text, corrupt)[0]
    error = float(losses.std() / np.sqrt(len(losses)))
    return {"loss": round(float(losses.mean()), 5), "standard_error": round(error, 5), "n_tokens": len(losses)}


def table(measured: dict[str, HeldOut]) -> str:
    """Return the measurements as a Markdown table."""
    lines = ["| text | loss | unigram | bigram | below bigram | nats per character | predicted tokens |"]
    lines.append("|---|---|---|---|---|---|---|")
    for source, m in measured.items():
        lines.append(
            f"| {source} | {m.loss:.3f} | {m.unigram:.3f} | {m.bigram:.3f} | {m.bigram - m.loss:+.3f} "
            f"| {m.loss / m.characters_per_token:.3f} | {m.n_tokens:,} |"
        )
    return "\n".join(lines)


def as_json(measured: dict[str, HeldOut]) -> dict[str, dict[str, float]]:
    """Return the measurements rounded to five decimals, ready for JSON."""
    return {source: {key: round(value, 5) for key, value in asdict(m).items()} for source, m in measured.items()}
