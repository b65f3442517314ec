"""Independence of a sequence's loss from its padding and from its neighbours: tried once per model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gdrop_viz.models.backbone import unwrapped
from gdrop_viz.models.facts import facts_of
from gdrop_viz.models.inputs import (
    accepted,
    decoder_inputs,
    forward_parameters,
    is_encoder_decoder,
    logits_of,
    longest_input,
    positions_from,
)
from gdrop_viz.models.own_loss import at_tokens, label_rule
from gdrop_viz.models.trials import FAILURES, LENGTH, padded, token_shape, trying, two_rows, without_second

logger = logging.getLogger(__name__)


def padding_rule(model: nn.Module, batch: Mapping[str, Any], side: str) -> bool:
    """Whether positions must be counted from the attention mask, so that padding on this side changes no loss.

    Measured once per side, and remembered until the model's modules change.

    Raises
    ------
    ValueError
        If a sequence's logits depend on its padding all the same.
    """
    facts = facts_of(model)
    if side not in facts:
        facts[side] = _needs_positions(model, batch, side)
    return facts[side]


def mixes_sequences(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    """Whether the logits of a sequence depend on the others of its batch; said once per model, by a RuntimeWarning."""
    facts = facts_of(model)
    if "mixes" not in facts:
        rows = two_rows(batch)
        labels = rows.pop("labels", None)
        if not rows or labels is None:
            return False
        if is_encoder_decoder(model) and labels.dim() == 2 and "decoder_input_ids" not in rows:
            rows["decoder_input_ids"] = decoder_inputs(model, labels)
        with trying(model, precise=True) as tried:
            try:
                together = logits_of(tried(**accepted(model, rows)))[1]
                alone = logits_of(tried(**accepted(model, {name: _row(value) for name, value in rows.items()})))[0]
            except FAILURES:
                return False
        facts["mixes"] = not _close(together, alone)
        if facts["mixes"]:
            warnings.warn(
                f"In {type(unwrapped(model)).__name__} the sequences of a batch influence each other: the loss of one "
                "depends on its neighbours.",
                RuntimeWarning,
                stacklevel=2,
            )
    return facts["mixes"]


def _needs_positions(model: nn.Module, batch: Mapping[str, Any], side: str) -> bool:
    per_sequence = label_rule(model, batch).per_sequence
    rows = two_rows(batch, length=None if per_sequence else LENGTH, alike=True)
    if token_shape(rows) is None:
        return False
    labels = rows.pop("labels")
    with_decoder = is_encoder_decoder(model) and not per_sequence
    if with_decoder and "decoder_input_ids" not in rows:
        rows["decoder_input_ids"] = decoder_inputs(model, labels)

    def logits(inputs: Mapping[str, Any]) -> Tensor:
        found = logits_of(tried(**accepted(model, inputs)))
        if found.dim() == 2 or with_decoder:
            return found
        mask = inputs["attention_mask"].bool()
        return at_tokens(found, mask.shape, type(unwrapped(model)).__name__)[mask.to(found.device)]

    needed = False
    with trying(model, precise=True) as tried:
        for plain, wider in _padded_pairs(model, rows, side):
            try:
                expected, found = logits(plain), logits(wider)
            except FAILURES as error:
                logger.info("padding on the %s could not be tried: %s", side, error)
                continue
            # a score for each token is refused elsewhere
            if found.shape != expected.shape or _close(found, expected):
                continue
            if "position_ids" in forward_parameters(model) and "position_ids" not in batch:
                counted = {**wider, "position_ids": positions_from(wider["attention_mask"])}
                try:
                    helps = _close(logits(counted), expected)
                except FAILURES:  # it says it takes them, and cannot do with them (Reformer)
                    helps = False
                if helps:
                    needed = True
                    continue
            if plain is not rows and not bool(found.isfinite().all()):
                continue  # more padding than a narrow window of attention can do with; such losses are seen elsewhere
            if mixes_sequences(model, batch):
                return False  # padding is a neighbour like any other: that has been said
            raise ValueError(
                f"expected losses of {type(unwrapped(model)).__name__} that do not depend on padding, got logits that "
                f"change by up to {float((found - expected).abs().max()):.2g} with padding on the {side}; make batches "
                "of sequences of one length, or of one sequence each"
            )
    return needed


def _padded_pairs(
    model: nn.Module, rows: Mapping[str, Any], side: str
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Sequences of two lengths that follow each other, without padding and with it.

    Where tokens are pooled by blocks (Funnel, CANINE), a length that is a multiple of the block says nothing: padding
    has blocks of its own.
    """
    config: Any = getattr(unwrapped(model), "config", None)
    token, longest = getattr(config, "pad_token_id", None), longest_input(model)
    shorter = without_second(rows)
    for plain, by in ((rows, 3), (shorter, 8)):
        n = (token_shape(plain) or (0, 0))[1]
        by = min(by, (longest or n + by) - n)
        if n and by > 0:
            yield plain, padded(plain, side, by=by, token=token if isinstance(token, int) else 0)


def _row(value: Any) -> Any:
    return value[1:2] if isinstance(value, Tensor) and value.dim() and len(value) == 2 else value


def _close(found: Tensor, expected: Tensor) -> bool:
    if not bool(expected.isfinite().all()):
        return True  # nothing to compare: losses that are not finite are refused elsewhere
    # roundings of some tens of layers; other devices add in other blocks for other lengths, TF32 has 10 bits
    tolerance = 1e-5 if expected.device.type == "cpu" else 2e-4
    if expected.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        tolerance = 0.02
    tolerance = tolerance if expected.element_size() >= 4 else 0.05
    return float((found - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), 1e-12)
