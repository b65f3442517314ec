"""Corruption: the inputs and labels of a pretraining objective, from tokens.

Definitions, for one sequence with ``n`` tokens besides the special ones:

- "mlm" (Devlin et al. 2019): ``max(1, round(0.15 n))`` ordinary tokens are predicted; of these 80 % are replaced by
  the mask token, 10 % by a random ordinary token, 10 % stay. Special tokens are never touched.
- "clm" (Radford et al. 2019): every token after the first is predicted; the labels are the input ids, and the shift by
  one happens in the loss.
- "span" (Raffel et al. 2020): ``max(1, round(0.15 n))`` tokens in ``max(1, round(that / 3))`` spans are cut out; each
  span leaves one sentinel in the input, and the labels are every sentinel with its span, then the end token. As in the
  authors' code a sequence begins with kept tokens and ends with a span, so that no closing sentinel is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gdrop_viz.models.inputs import longest_input
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.text.tokens import UnknownTokens, n_embedded, require_embedded

NOT_PREDICTED = -100
PREDICTED_SHARE = 0.15
MEAN_SPAN = 3.0
MIN_TOKENS = 8


class CorruptedSequence(NamedTuple):
    """Token ids (T,) and labels ((T,); for "span" (U,)) of one sequence, without padding, and its text."""

    input_ids: Tensor
    labels: Tensor
    text: str


class Corruption:
    """Turns texts into pieces of tokens, and a piece into inputs and labels, for one model and its objective."""

    def __init__(self, lm: Pretrained, max_length: int) -> None:
        self.tokenizer = tokenizer = lm.tokenizer
        if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
            raise TypeError(f"expected lm.tokenizer as a transformers tokenizer, got {type(tokenizer).__name__}")
        self.objective = lm.objective
        self.prefix, self.suffix = _affixes(tokenizer)
        self.content = max_length - len(self.prefix) - len(self.suffix)
        if self.content < MIN_TOKENS:
            raise ValueError(
                f"expected max_length with room for {MIN_TOKENS} ordinary tokens, got {max_length} with room for "
                f"{self.content}"
            )
        limit = longest_input(lm.model)
        if limit is not None and max_length > limit:
            raise ValueError(
                f"expected max_length within the {limit} positions of the model {lm.name!r}, got {max_length}"
            )
        vocabulary = tokenizer.get_vocab()
        self.n_embedded = n_embedded(lm.model)
        self.special = set(tokenizer.all_special_ids)
        self.unknown = UnknownTokens(tokenizer)
        # padding lies behind the attention mask and is never predicted, so any token will do where none is named
        choices = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad = next(token for token in choices if token is not None and token < self.n_embedded)
        if self.objective == "mlm":
            if tokenizer.mask_token_id is None:
                raise ValueError(
                    f"expected a tokenizer with a mask token for objective 'mlm', got that of {lm.name!r} with none"
                )
            self.ordinary = torch.tensor(sorted(set(vocabulary.values()) - self.special))
            self.ordinary = self.ordinary[self.ordinary < self.n_embedded]
        if self.objective == "span":
            self.sentinels = sentinels(vocabulary)
            self.special |= set(self.sentinels)
            needed = _span_counts(self.content)[1]
            if needed > len(self.sentinels):
                raise ValueError(
                    f"expected a tokenizer with {needed} sentinel tokens <extra_id_0>, ... for objective 'span' and "
                    f"max_length={max_length}, got that of {lm.name!r} with {len(self.sentinels)}"
                )

    def pieces(self, texts: list[str]) -> list[list[list[int]]]:
        """Return each text's pieces of at most `content` tokens, without those too short to learn anything from."""
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        self.unknown.count(encoded)
        cut = [[ids[i : i + self.content] for i in range(0, len(ids), self.content)] for ids in encoded]
        return [[piece for piece in pieces if self._n_ordinary(piece) >= MIN_TOKENS] for pieces in cut]

    def _n_ordinary(self, piece: list[int]) -> int:
        return sum(token not in self.special for token in piece)

    def __call__(self, piece: list[int], generator: torch.Generator) -> CorruptedSequence:
        require_embedded([*self.prefix, *piece, *self.suffix], self.n_embedded)
        text = self.tokenizer.decode(piece)
        if self.objective == "span":
            return CorruptedSequence(*self._spans(piece, generator), text)
        input_ids = torch.tensor([*self.prefix, *piece, *self.suffix])
        if self.objective == "clm":
            return CorruptedSequence(input_ids, input_ids.clone(), text)
        return CorruptedSequence(*self._masked(input_ids, generator), text)

    def _masked(self, input_ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        free = torch.tensor([i for i, token in enumerate(input_ids.tolist()) if token not in self.special])
        n = max(1, round(PREDICTED_SHARE * len(free)))
        chosen = free[torch.randperm(len(free), generator=generator)[:n]]
        fate = torch.rand(n, generator=generator)
        random_tokens = self.ordinary[torch.randint(len(self.ordinary), (n,), generator=generator)]
        labels = torch.full_like(input_ids, NOT_PREDICTED)
        labels[chosen] = input_ids[chosen]
        input_ids = input_ids.clone()
        input_ids[chosen[fate < 0.8]] = self.tokenizer.mask_token_id
        input_ids[chosen[fate >= 0.9]] = random_tokens[fate >= 0.9]
        return input_ids, labels

    def _spans(self, piece: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n_cut, n_spans = _span_counts(len(piece))
        kept_lengths = _parts(len(piece) - n_cut, n_spans, generator)
        cut_lengths = _parts(n_cut, n_spans, generator)
        inputs, labels, position = list(self.prefix), list[int](), 0
        for sentinel, kept, cut in zip(self.sentinels, kept_lengths, cut_lengths, strict=False):
            inputs += [*piece[position : position + kept], sentinel]
            labels += [sentinel, *piece[position + kept : position + kept + cut]]
            position += kept + cut
        return torch.tensor([*inputs, *self.suffix]), torch.tensor([*labels, *self.suffix])


def _span_counts(length: int) -> tuple[int, int]:
    n_cut = max(1, round(PREDICTED_SHARE * length))
    return n_cut, max(1, round(n_cut / MEAN_SPAN))


def _parts(total: int, n: int, generator: torch.Generator) -> list[int]:
    """Cut `total` into `n` parts of at least 1, all such cuts being equally likely."""
    cuts = (torch.randperm(total - 1, generator=generator)[: n - 1] + 1).sort().values.tolist()
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]


def _affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    raise ValueError(
        "expected a tokenizer that puts its special tokens around a text, got one that changes the text's own tokens; "
        "pass batches of your own"
    )


def sentinels(vocabulary: Mapping[str, int]) -> list[int]:
    """Return the ids of <extra_id_0>, <extra_id_1>, ... as far as the vocabulary has them."""
    for template in ("<extra_id_{}>", "▁<extra_id_{}>"):  # T5; multilingual T5
        found: list[int] = []
        while (token := template.format(len(found))) in vocabulary:
            found.append(vocabulary[token])
        if found:
            return found
    return []


def drawn_below(n: int, generator: torch.Generator) -> int:
    """Return a random number of 0 ... n - 1."""
    return int(torch.randint(n, (1,), generator=generator))
