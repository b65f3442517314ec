"""Batches that a caller gives: made tensors, and checked against the model before any work, without a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.models.backbone import unwrapped
from gdrop_viz.models.inputs import forward_parameters, longest_input, takes_any
from gdrop_viz.models.own_loss import check_label_shape, label_rule
from gdrop_viz.models.trials import vocabulary_of

IGNORED = -100
_WANTED = "dicts of tensors, (N, T), with labels, as gv.pretraining_batches or a DataLoader gives them"


def as_batches(batches: Any) -> Sequence[Mapping[str, Any]]:
    """Return the batches as a sequence of dicts with tensors in place of arrays and lists.

    One batch alone counts as a list of it. What is right already comes back as the same object.

    Raises
    ------
    TypeError, ValueError
        If there are no batches, or they are something else, such as rows of a data set.
    """
    if isinstance(batches, Mapping):
        batches = [batches]
    if isinstance(batches, (str, bytes, Tensor, np.ndarray)) or not isinstance(batches, Iterable):
        raise TypeError(f"expected batches as {_WANTED}, got {type(batches).__name__}")
    given = batches if isinstance(batches, Sequence) else list(batches)
    if not len(given):
        raise ValueError("expected at least one batch, got none; gv.pretraining_batches(lm, texts) makes them")
    made = [_as_tensors(batch, f"batch {number}") for number, batch in enumerate(given)]
    if all(new is None for new in made):
        return given
    return [dict(old) if new is None else new for old, new in zip(given, made, strict=True)]


def _as_tensors(batch: Any, where: str) -> dict[str, Any] | None:
    """The batch with tensors in place of arrays and lists of numbers; None if there is nothing to change."""
    if not isinstance(batch, Mapping) or not batch:
        raise TypeError(
            f"expected {where} as a dict of tensors with its labels, got {type(batch).__name__}; give {_WANTED}"
        )
    changed = {}
    for name, value in batch.items():
        if isinstance(value, (list, tuple, np.ndarray)):
            try:
                changed[name] = torch.as_tensor(np.asarray(value))
            except (ValueError, TypeError):
                raise TypeError(
                    f"expected {name!r} of {where} as a tensor, got {_described(value)}; leave it out, or pad its "
                    "rows to one length"
                ) from None
        elif isinstance(value, str):
            raise TypeError(f"expected {name!r} of {where} as a tensor, got str; leave it out")
    whole = {**batch, **changed}
    ids = whole.get("input_ids")
    if isinstance(ids, Tensor) and ids.dim() < 2:
        raise ValueError(
            f"expected input_ids of {where} of shape (N, T), got {tuple(ids.shape)}: one row; collate rows into "
            "batches (torch.utils.data.DataLoader), or add an axis"
        )
    return whole if changed else None


def _described(value: Any) -> str:
    first = value[0] if len(value) else value
    return f"{type(value).__name__} of {type(first).__name__}"


def check_batch(model: nn.Module, batch: Any, *, loss: Any = None, where: str = "the batch") -> None:
    """Raise ValueError or TypeError, in one line, if `model` could not compute the losses of `batch`.

    Its own inputs, positions, vocabulary and labels are looked at; no forward pass is made but the trial that
    `label_rule` makes once per model.
    """
    if not isinstance(batch, Mapping) or not batch:
        raise TypeError(f"{where} must be a dict of tensors with its labels, got {type(batch).__name__}.")
    _check_names(model, batch, where)
    if loss is not None:
        return
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(f'{where} has no "labels" tensor; gv.pretraining_batches makes them, or pass loss=.')
    _check_tokens(model, batch, where)
    ids = batch.get("input_ids")
    if isinstance(ids, Tensor) and len(labels) != len(ids):
        raise ValueError(
            f"{where} has labels of {len(labels)} sequences for token ids of {len(ids)}; give each its own."
        )
    if labels.dim() == 2 and not labels.is_floating_point():
        _check_token_labels(model, batch, labels, where)


def _check_names(model: nn.Module, batch: Mapping[str, Any], where: str) -> None:
    parameters = forward_parameters(model)
    if takes_any(parameters):
        return
    unknown = [name for name in batch if name != "labels" and name not in parameters]
    if unknown:
        raise ValueError(
            f"expected inputs that {type(unwrapped(model)).__name__} takes, got {', '.join(map(repr, unknown))} in "
            f"{where}; leave that out"
        )


def _check_tokens(model: nn.Module, batch: Mapping[str, Any], where: str) -> None:
    ids, longest = batch.get("input_ids"), longest_input(model)
    if not isinstance(ids, Tensor) or not ids.numel():
        return
    if longest is not None and ids.shape[-1] > longest:
        raise ValueError(
            f"{where} has sequences of {ids.shape[-1]} tokens, the model has {longest} positions; "
            f"make batches with max_length={longest} or less."
        )
    if ids.is_floating_point():
        raise ValueError(f"{where} has input_ids of type {ids.dtype}; give whole numbers.")
    vocabulary = vocabulary_of(model)
    bad = next((int(x) for x in (ids.max(), ids.min()) if not 0 <= int(x) < (vocabulary or int(x) + 1)), None)
    if bad is not None:
        raise ValueError(
            f"{where} holds the token id {bad}, the model knows ids from 0 and below {vocabulary}; was it made with "
            "another model's tokenizer? For a tokenizer with new tokens: model.resize_token_embeddings(len(tokenizer))."
        )


def _check_token_labels(model: nn.Module, batch: Mapping[str, Any], labels: Tensor, where: str) -> None:
    rule = label_rule(model, batch)
    if rule.per_sequence:
        return
    check_label_shape(model, batch, where)
    known = labels[labels != IGNORED]
    classes = rule.classes
    if classes is not None and known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise ValueError(f"{where} has labels outside 0 .. {classes - 1} (and -100); was it made for another model?")
    check_predicts(
        (labels[:, 1:] if rule.shifted else labels) != IGNORED, where, tokens=labels.shape[1] if rule.shifted else 2
    )


def check_predicts(predicted: Tensor, where: str, *, tokens: int = 2) -> list[int]:
    """Return the predicted tokens of each sequence of `predicted` (N, T); raise ValueError if one has none."""
    counts = predicted.sum(1).tolist()
    if 0 not in counts:
        return counts
    which = f"Sequence {counts.index(0)} of {where}"
    if tokens < 2:
        raise ValueError(f"{which} is a single token, and the model predicts the next one; drop it.")
    raise ValueError(
        f"{which} predicts no token (all labels are -100); "
        "drop it or mask at least one token: gv.pretraining_batches does."
    )
