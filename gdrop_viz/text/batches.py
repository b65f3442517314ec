"""Pretraining batches: fixed, masked text on which a model's pretraining loss is measured."""

from __future__ import annotations

import hashlib
import html
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import instance, whole
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.models.objectives import Objective
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.text.corruption import MIN_TOKENS, NOT_PREDICTED, CorruptedSequence, Corruption, drawn_below
from gdrop_viz.text.sources import texts_of

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Batches(Sequence[dict[str, Tensor]]):
    """Fixed pretraining batches: every pass over them sees the same tokens, masks and labels.

    Each batch holds `input_ids` and `attention_mask` (N, T) and `labels` ((N, T); for "span" (N, U)), int64, padded to
    the longest sequence of the batch; labels are -100 where nothing is predicted. A slice is again a `Batches`.

    Attributes
    ----------
    objective
        "mlm", "clm" or "span".
    texts
        The text of each sequence, in order.
    """

    batches: tuple[dict[str, Tensor], ...] = field(repr=False)
    objective: Objective
    texts: tuple[str, ...] = field(repr=False, default=())

    @overload
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> Batches: ...
    def __getitem__(self, index: int | slice) -> dict[str, Tensor] | Batches:
        if isinstance(index, slice):
            starts = [0]
            for batch in self.batches:
                starts.append(starts[-1] + len(batch["input_ids"]))
            chosen = range(len(self.batches))[index]
            texts = tuple(text for i in chosen for text in self.texts[starts[i] : starts[i + 1]])
            return replace(self, batches=tuple(self.batches[i] for i in chosen), texts=texts)
        # a copy of the dict, so that a caller who pops the labels does not change the batches
        return dict(self.batches[index])

    def __len__(self) -> int:
        return len(self.batches)

    @cached_property
    def n_sequences(self) -> int:
        """The number of sequences in all batches."""
        return sum(len(batch["input_ids"]) for batch in self.batches)

    @cached_property
    def n_predicted(self) -> int:
        """The number of predicted tokens in all batches."""
        return int(self.to_frame()["predicted"].sum())

    @cached_property
    def checksum(self) -> str:
        """The sha256 of all sequences' token ids and labels without padding: the same for every batch size."""
        digest = hashlib.sha256(self.objective.encode())
        for input_ids, labels in self._sequences():
            for ids in (input_ids, labels):
                digest.update(len(ids).to_bytes(8, "little"))
                digest.update(ids.to("cpu", torch.int64).numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per sequence: its batch, tokens, predicted tokens and text."""
        import pandas as pd

        first = 1 if self.objective == "clm" else 0  # nothing comes before the first token to predict it from
        rows = [
            (len(input_ids), int((labels[first:] != NOT_PREDICTED).sum())) for input_ids, labels in self._sequences()
        ]
        frame = pd.DataFrame(rows, columns=["tokens", "predicted"])
        frame.insert(0, "batch", [i for i, batch in enumerate(self.batches) for _ in batch["input_ids"]])
        if self.texts:
            frame["text"] = list(self.texts)
        return frame.rename_axis("sequence")

    def _sequences(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            for input_ids, mask, labels in zip(
                batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
            ):
                length = int(mask.sum())
                # span labels have a length of their own, and no -100 before their end
                end = int((labels != NOT_PREDICTED).sum()) if self.objective == "span" else length
                yield input_ids[:length], labels[:end]

    def __repr__(self) -> str:
        return (
            f"Batches({self.n_sequences} sequences in {len(self)} batches, objective={self.objective!r}, "
            f"{self.n_predicted:,} predicted tokens, checksum={self.checksum[:12]})"
        )

    def _repr_html_(self) -> str:
        table = self.to_frame().head(5).to_html(escape=True)
        return f"<p>{html.escape(repr(self))}; the first sequences:</p>{table}"


def pretraining_batches(
    lm: Pretrained,
    texts: Iterable[str] | str | os.PathLike[str] | None = None,
    *,
    n_sequences: int | None = 256,
    batch_size: int = 16,
    max_length: int = 128,
    seed: int = 0,
    sort_by_length: bool = False,
    column: str | None = None,
    dataset_config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    progress: bool = True,
) -> Batches:
    """Draw a fixed random sample of sequences from `texts` and mask it as the model was pretrained.

    Under "mlm" 15 % of a sequence's tokens are predicted, of which 80 % are masked, 10 % replaced by random ones and
    10 % left (Devlin et al. 2019); under "clm" every token but the first; under "span" 15 %, cut out in spans of 3 on
    average (Raffel et al. 2020). Every sequence predicts at least one token, and special tokens are left alone.

    Each text is cut into pieces of at most `max_length` tokens (special tokens included); pieces with fewer than 8
    ordinary tokens are left out, and no sequence mixes two texts. The texts are visited in an order drawn from `seed`
    and give one random piece each; only when all were visited do their other pieces follow, in random order. So 64
    sequences are the first 64 of 256, a masked sequence does not depend on `batch_size`, and a large data set is
    tokenised only as far as it is needed. The global random numbers are not touched.

    Parameters
    ----------
    lm
        The model (for its limits), tokenizer and objective.
    texts
        None: the bundled corpus, held out of the pretraining of the bundled models. Else an iterable of str, the path
        of a file (txt with one text per line, or csv, tsv, json, jsonl, parquet), or a data set id of the hub.
    n_sequences
        How many sequences to draw; None takes all. If the texts give fewer, all are taken, with a warning.
    batch_size, max_length
        Sequences per batch; tokens per sequence at most. The last batch may be smaller.
    seed
        Of the sample and of the masks.
    sort_by_length
        Put the drawn sequences in order of length. Less padding, so less work; but a prefix of the batches is then no
        random sample any more.
    column
        The column with the text of a table or data set; by default "text", or the only column that holds text.
    dataset_config, split, revision
        Configuration and split of a hub data set, such as "20231101.simple" and "train"; its branch, tag or commit.
    progress
        Whether to show a bar if this takes long.

    Warns
    -----
    UserWarning
        If the texts are fewer than asked for, or more than one token in a hundred is unknown to the tokenizer.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError, RuntimeError
        In one line, if an argument is wrong, the text is empty or cannot be read, `max_length` is beyond the model's
        positions, or the tokenizer lacks the mask token ("mlm") or the sentinels ("span").

    Examples
    --------
    >>> from gdrop_viz import load_pretrained
    >>> batches = pretraining_batches(load_pretrained("bert-mini"), n_sequences=20, max_length=32)
    >>> len(batches), batches.n_sequences, sorted(batches[0]), batches[0]["labels"].shape
    (2, 20, ['attention_mask', 'input_ids', 'labels'], torch.Size([16, 32]))
    """
    instance(lm, Pretrained, "lm", "load_pretrained")
    if n_sequences is not None:
        whole(n_sequences, "n_sequences")
    whole(batch_size, "batch_size")
    corruption = Corruption(lm, whole(max_length, "max_length"))
    source = texts_of(texts, column, dataset_config, split, revision)
    generator = torch.Generator().manual_seed(seed)
    sequences: list[CorruptedSequence] = []
    with progress_bar(total=n_sequences or len(source), description="text", unit="sequence", show=progress) as bar:
        for piece in _sample(source, corruption, generator):
            sequences.append(corruption(piece, generator))
            bar.update()
            if len(sequences) == n_sequences:
                break
    if not sequences:
        raise ValueError(
            f"expected texts with at least {MIN_TOKENS} tokens, but none of the {len(source)} texts has so many; "
            + (corruption.unknown.remark() or "join short lines, or check the column")
        )
    corruption.unknown.warn(stacklevel=2)
    if n_sequences is not None and len(sequences) < n_sequences:
        warnings.warn(
            f"the texts hold {len(sequences)} sequences of at most {max_length} tokens, fewer than "
            f"n_sequences={n_sequences}; all are used",
            stacklevel=2,
        )
    if sort_by_length:
        sequences.sort(key=lambda sequence: len(sequence.input_ids))
    groups = [sequences[start : start + batch_size] for start in range(0, len(sequences), batch_size)]
    return Batches(
        tuple(_padded(group, corruption.pad) for group in groups),
        lm.objective,
        tuple(sequence.text for sequence in sequences),
    )


def _padded(group: list[CorruptedSequence], pad: int) -> dict[str, Tensor]:
    def stack(rows: list[Tensor], value: int) -> Tensor:
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    return {
        "input_ids": stack([sequence.input_ids for sequence in group], pad),
        "attention_mask": stack([torch.ones_like(sequence.input_ids) for sequence in group], 0),
        "labels": stack([sequence.labels for sequence in group], NOT_PREDICTED),
    }


def _sample(source: Sequence[str], corruption: Corruption, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield pieces of tokens: one of each text in random order, then all others in random order."""
    order = torch.randperm(len(source), generator=generator).tolist()
    others: list[list[int]] = []
    for start in range(0, len(order), _CHUNK):
        chunk = [source[i] or "" for i in order[start : start + _CHUNK]]
        for pieces in corruption.pieces(chunk):
            if pieces:
                yield pieces.pop(drawn_below(len(pieces), generator))
                others.extend(pieces)
    for i in torch.randperm(len(others), generator=generator).tolist():
        yield others[i]
