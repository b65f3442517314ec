"""Tokens of a text: whether the model embeds them, and whether the tokenizer knows the words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

MOST_UNKNOWN = 0.01  # a larger share of unknown tokens is said


def n_embedded(model: Any) -> float:
    """The number of tokens that a model has an embedding for; infinity where it shows no table."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return table.num_embeddings if isinstance(table, nn.Embedding) else math.inf


def require_embedded(tokens: Iterable[int], embedded: float) -> None:
    """Raise ValueError if a token lies beyond the table of a model with `embedded` rows."""
    highest = max(tokens, default=0)
    if highest >= embedded:
        raise ValueError(
            f"expected tokens below {embedded:.0f}, as many as the model embeds, got {highest} from the tokenizer; "
            "pass this model's tokenizer, or call model.resize_token_embeddings(len(tokenizer)) after adding tokens"
        )


class UnknownTokens:
    """The share of tokens that a tokenizer does not know, over all texts that were counted."""

    def __init__(self, tokenizer: Any) -> None:
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._name = getattr(tokenizer, "unk_token", None)
        self._counts = [0, 0]

    def count(self, texts: Iterable[Sequence[int]]) -> None:
        """Count the tokens of more texts."""
        for tokens in texts:
            self._counts[0] += sum(token == self._unknown for token in tokens)
            self._counts[1] += len(tokens)

    def remark(self) -> str | None:
        """One line if the share is above one in a hundred."""
        unknown, all_tokens = self._counts
        if unknown <= MOST_UNKNOWN * all_tokens:
            return None
        return (
            f"{unknown / all_tokens:.0%} of the tokens are unknown to the tokenizer ({self._name}): its vocabulary does"
            " not cover this language or script, so the numbers say little about these texts"
        )

    def warn(self, stacklevel: int) -> None:
        """Warn with the remark, if there is one."""
        if (remark := self.remark()) is not None:
            warnings.warn(remark, stacklevel=stacklevel + 1)
