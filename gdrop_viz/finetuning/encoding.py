"""Tokenisation and padding of a task's texts, each text only once per tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from gdrop_viz.finetuning.classifier import pad_token_id, tokenizer_digest
from gdrop_viz.models.hub import quiet_libraries
from gdrop_viz.models.inputs import longest_input
from gdrop_viz.text.tokens import UnknownTokens, n_embedded, require_embedded

if TYPE_CHECKING:
    from datasets import Dataset

    from gdrop_viz.models.pretrained import Pretrained

Features = dict[str, np.ndarray]

# tokenizer -> (settings) -> (text, second text) -> features; an arm or a seed more never tokenises anything again
_CACHE: WeakKeyDictionary[Any, dict[tuple, dict[tuple, Features]]] = WeakKeyDictionary()


def encode(lm: Pretrained, data: Dataset, *, max_length: int) -> list[dict[str, Any]]:
    """Return one dict of unpadded token features and "labels" per row of `data`, in its order.

    Texts (with "text_pair" where the task has one) longer than `max_length`, or than the model can take, are cut.
    Encoder-decoders classify at the end-of-text token: each input of theirs has exactly one, at its end.
    """
    tokenizer = lm.tokenizer
    limit = min(max_length, length_limit(lm))
    config: Any = lm.model.config
    end = getattr(config, "eos_token_id", None) if config.is_encoder_decoder else None
    settings = (limit, end, pad_token_id(lm), tokenizer_digest(tokenizer))
    known = _CACHE.setdefault(tokenizer, {}).setdefault(settings, {})
    seconds = data["text_pair"] if "text_pair" in data.column_names else [None] * len(data)
    keys = list(zip(data["text"], seconds, strict=True))
    new = [key for key in dict.fromkeys(keys) if key not in known]
    if new:
        features = _tokenise(tokenizer, new, limit, end, pad_token_id(lm))
        tokens = [row["input_ids"].tolist() for row in features]
        require_embedded([token for row in tokens for token in row], n_embedded(lm.model))
        unknown = UnknownTokens(tokenizer)
        unknown.count(tokens)
        unknown.warn(stacklevel=2)
        known.update(zip(new, features, strict=True))
    return [known[key] | {"labels": label} for key, label in zip(keys, data["label"], strict=True)]


def length_limit(lm: Pretrained) -> int:
    """Return how many tokens the model can take: the smaller of the tokenizer's statement and the model's positions."""
    positions = longest_input(lm.model)
    return int(min(lm.tokenizer.model_max_length, 10**9 if positions is None else positions))


class PaddedBatches:
    """Collate features into tensors: padded on the right to the longest of the batch, or to `fixed_length`.

    Parameters
    ----------
    lm
        Whose tokenizer's pad ids are used.
    fixed_length
        Pad to this many tokens whatever the batch holds; None pads dynamically, with the same loss and less work.
    regression
        Whether labels are real numbers.
    """

    def __init__(self, lm: Pretrained, *, fixed_length: int | None = None, regression: bool = False) -> None:
        self.padding = {"input_ids": pad_token_id(lm), "token_type_ids": lm.tokenizer.pad_token_type_id}
        self.fixed_length = fixed_length
        self.label_type = torch.float32 if regression else torch.long

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = self.fixed_length or max(len(row["input_ids"]) for row in rows)
        batch = {"labels": torch.tensor([row["labels"] for row in rows], dtype=self.label_type)}
        for key in rows[0].keys() - {"labels"}:
            padded = np.full((len(rows), width), self.padding.get(key, 0), dtype=np.int64)
            for padded_row, row in zip(padded, rows, strict=True):
                padded_row[: len(row[key])] = row[key]
            batch[key] = torch.from_numpy(padded)
        return batch


def _tokenise(tokenizer: Any, keys: list[tuple], limit: int, end: int | None, pad: int) -> list[Features]:
    texts = [text for text, _ in keys]
    seconds = None if keys[0][1] is None else [second for _, second in keys]
    with quiet_libraries():
        encoded = tokenizer(
            texts, seconds, truncation=True, max_length=limit, padding=False, return_attention_mask=True
        )
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
    rows = []
    for i in range(len(keys)):
        row = {name: np.asarray(encoded[name][i], dtype=np.int32) for name in names}
        if end is not None:
            ids = row["input_ids"][row["input_ids"] != end][: limit - 1]
            row = {"input_ids": np.append(ids, end).astype(np.int32)}
        elif len(row["input_ids"]) == 0:
            # a tokenizer without special tokens (GPT-2) makes nothing of an empty text
            row = {"input_ids": np.array([pad], dtype=np.int32)}
        rows.append(row | {"attention_mask": np.ones(len(row["input_ids"]), dtype=np.int32)})
    return rows
