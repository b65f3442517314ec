"""Self-check of the batched gradients: two short sequences, batched beside loop, tensor by tensor.

A layout that no rule foresaw must never give a silently wrong number, so whatever differs goes through the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from gdrop_viz.base.state import preserved_requires_grad
from gdrop_viz.fisher.batch import Batch, Objective, Part, add_batched, add_looped, batch_size, part_of
from gdrop_viz.fisher.sums import Sums
from gdrop_viz.models.differentiation import differentiable
from gdrop_viz.models.trials import FAILURES

_LENGTH = 24
_REENTRANT = f"{CheckpointFunction.__name__}Backward"
# The two ways block their matrix products differently, so they differ by rounding; a wrong layout is off by its own
# size. Squares double the relative error.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.bfloat16: 0.2, torch.float16: 0.2}


@dataclass(frozen=True)
class Checked:
    """Which parameters go through the loop, {name: reason}, and the kinds of use that were compared with it."""

    looped: dict[str, str]
    kinds: dict[str, frozenset[str]]


def self_check(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], two: Batch, objective: Objective, *, elements: bool
) -> Checked:
    """Compare the batched scores of the `two` sequences with the loop's: those that differ go through the loop."""
    part = Part(_shortened(two), where="batch 0")
    batched, looped = (Sums.of(parameters, elements=elements) for _ in range(2))
    for sums in (batched, looped):
        sums.begin(batch_size(part.batch))
    traced = add_batched(model, parameters, part, batched, objective)
    reasons = dict(traced.left_out)
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
    return Checked(reasons, traced.kinds)


def check_gradients(model: nn.Module, two: Batch, objective: Objective) -> None:
    """Raise ValueError, in one line, if the gradients of the losses cannot be seen sequence by sequence."""
    with preserved_requires_grad(model):
        for weight in model.parameters():
            weight.requires_grad_(differentiable(weight))
        losses = next(objective.losses(model, two, 0))
        name = type(model).__name__
        if not losses.requires_grad:
            raise ValueError(
                f"expected losses that depend on the weights of {name}, got losses without gradients; "
                "does its forward, or loss=, run under torch.no_grad()?"
            )
        nodes = list(_nodes(losses))
        if any(node.name() == _REENTRANT for node in nodes):
            raise ValueError(
                f"expected a forward whose gradients can be followed, but {name} runs reentrant gradient "
                "checkpointing; switch it off (model.gradient_checkpointing_disable()), or use "
                "torch.utils.checkpoint with use_reentrant=False"
            )
        if any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in nodes):  # may refuse eval mode
            weights = [weight for weight in model.parameters() if differentiable(weight)]
            try:
                torch.autograd.grad(losses.sum(), weights, allow_unused=True)
            except FAILURES as error:
                raise ValueError(
                    f"expected a backward pass through {name} in eval mode, but a function of its own refuses it "
                    f"({' '.join(str(error).split())[:120]}); there is no Fisher information of such a model"
                ) from error


def _nodes(losses: Tensor) -> Iterator[Any]:
    """The calls that autograd has recorded on the way to the losses."""
    seen: set[Any] = set()
    waiting = [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [source for source, _ in node.next_functions]
            yield node


def first_two(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The first two sequences of the text, whatever the batches are; a text of one sequence has it twice.

    Sequences of different batches are cut to the shorter one's length.
    """
    first = batches[0]
    if batch_size(first) > 1:
        return part_of(first, slice(0, 2))
    joined = _joined(first, part_of(batches[1], slice(0, 1))) if len(batches) > 1 else None
    return joined or _joined(first, first) or dict(first)


def _joined(first: Batch, second: Batch) -> dict[str, Tensor] | None:
    """Two batches of one sequence each as one, None if they do not fit together or one would predict nothing."""
    if set(first) != set(second):
        return None
    joined: dict[str, Tensor] = {}
    for name, one in first.items():
        other = second[name]
        if not isinstance(one, Tensor):
            joined[name] = one
            continue
        if one.dim() == 0 or one.dim() != other.dim() or (one.shape != other.shape and len(one) != 1):
            return None
        if len(one) != 1:  # no row per sequence
            joined[name] = one
            continue
        cut = (slice(None), *(slice(min(sizes)) for sizes in zip(one.shape[1:], other.shape[1:], strict=True)))
        joined[name] = torch.cat([one[cut], other[cut].to(one.device)])
    labels = joined.get("labels")
    if labels is None or labels.dim() != 2 or labels.is_floating_point():
        return joined
    return joined if bool((labels[:, 1:] != -100).any(1).all()) else None


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
