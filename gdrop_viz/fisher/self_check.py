"""Can the hooks be trusted on this model? A look at two short sequences, hooks beside loop, tensor by tensor.

A layout that no rule foresaw must never give a silently wrong number, so whatever differs goes through the loop.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.fisher.batch import Batch, Objective, batch_size, by_hooks, by_loop, part_of
from gdrop_viz.fisher.sums import Sums

_LENGTH = 24
# Hooks and loop block their matrix products differently, so they differ by rounding; a wrong layout is off by its own
# size. Squares double the relative error.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.bfloat16: 0.2, torch.float16: 0.2}


def untrusted(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: Batch, *, elements: bool, objective: Objective
) -> dict[str, str]:
    """Return {name: reason} of the parameters whose hook scores differ from the loop's on two sequences of `batch`."""
    batch = _shortened(part_of(batch, slice(0, 2)))
    by = {method: Sums.of(parameters, elements=elements) for method in ("hooks", "loop")}
    for sums in by.values():
        sums.begin(batch_size(batch))
    reasons = by_hooks(model, parameters, batch, by["hooks"], objective=objective, where="batch 0")
    by_loop(model, parameters, batch, by["loop"], objective=objective, where="batch 0")
    norms = {method: sums.batch_norms for method, sums in by.items()}
    # a gradient that is zero in exact arithmetic (key biases) is rounding noise of the others' size
    noise = 1e-10 * norms["loop"].sum() / by["loop"].numel.sum()
    for column, (name, parameter) in enumerate(parameters.items()):
        tolerance = _TOLERANCE.get(parameter.dtype, 5e-3)
        if elements:
            expected, found = by["loop"].squares[name], by["hooks"].squares[name]
            difference, size = float((expected - found).abs().sum()), float(expected.abs().sum())
        else:
            difference = float(np.abs(norms["loop"][:, column] - norms["hooks"][:, column]).sum())
            size = float(norms["loop"][:, column].sum())
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
