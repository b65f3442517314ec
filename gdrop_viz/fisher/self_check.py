"""Self-check of the batched gradients: two short sequences, batched beside loop, tensor by tensor.

A layout that no rule foresaw must never give a silently wrong number, so whatever differs goes through the loop.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.fisher.batch import Batch, Objective, Part, add_batched, add_looped, batch_size, part_of
from gdrop_viz.fisher.sums import Sums

_LENGTH = 24
# The two ways block their matrix products differently, so they differ by rounding; a wrong layout is off by its own
# size. Squares double the relative error.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.bfloat16: 0.2, torch.float16: 0.2}


def parameters_to_loop(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: Batch, objective: Objective, *, elements: bool
) -> dict[str, str]:
    """Return {name: reason} of the parameters whose batched scores differ from the loop's on two sequences."""
    part = Part(_shortened(part_of(batch, slice(0, 2))), where="batch 0")
    batched, looped = (Sums.of(parameters, elements=elements) for _ in range(2))
    for sums in (batched, looped):
        sums.begin(batch_size(part.batch))
    reasons = add_batched(model, parameters, part, batched, objective)
    add_looped(model, parameters, part, looped, objective)
    # a gradient that is zero in exact arithmetic (key biases) is rounding noise of the others' size
    noise = 1e-10 * looped.batch_norms.sum() / looped.numel.sum()
    for column, (name, parameter) in enumerate(parameters.items()):
        tolerance = _TOLERANCE.get(parameter.dtype, 5e-3)
        if batched.squares is not None and looped.squares is not None:
            expected, found = looped.squares[name], batched.squares[name]
            difference, size = float((expected - found).abs().sum()), float(expected.abs().sum())
        else:
            difference = float(np.abs(looped.batch_norms[:, column] - batched.batch_norms[:, column]).sum())
            size = float(looped.batch_norms[:, column].sum())
        if not difference <= tolerance * size + noise * parameter.numel():
            reasons.setdefault(name, "its scores differ from the loop's")
    return reasons


def _shortened(batch: Batch) -> dict[str, Tensor]:
    """The batch cut to its first columns, as many as it takes for every sequence to predict something."""
    labels = batch.get("labels")
    if labels is None or labels.dim() != 2 or labels.is_floating_point():
        return dict(batch)
    # a causal model does not predict the first token
    predicted = (labels[:, 1:] != -100).int()
    if not bool(predicted.any(1).all()):
        return dict(batch)
    length = max(_LENGTH, int(predicted.argmax(1).max()) + 2)
    return {
        name: value[:, :length] if isinstance(value, Tensor) and value.dim() == 2 else value
        for name, value in batch.items()
    }
