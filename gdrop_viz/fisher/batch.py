"""How does one batch add to the sums: by hooks, or by the plain loop over its sequences?

The loop is the definition written down: one forward and one backward per sequence. The hooks give the same numbers at
the price of one backward pass for the whole batch; what they do not cover goes through the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import finite_losses
from gdrop_viz.base.state import preserved_requires_grad
from gdrop_viz.fisher.estimators import surrogate_losses
from gdrop_viz.fisher.sums import Sums
from gdrop_viz.fisher.tracing import Tracer
from gdrop_viz.models.losses import Loss, predictions, sequence_losses

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """What is differentiated: the estimator's surrogate losses of a batch, or the caller's own losses."""

    estimator: str = "empirical"
    draws: int = 1
    seed: int = 0
    loss: Loss | None = None

    def losses(self, model: nn.Module, batch: Batch, first: int) -> Iterator[Tensor]:
        """Yield one tensor of losses (N,) per backward pass; the batch's first sequence has the number `first`."""
        if self.loss is not None:
            yield sequence_losses(model, batch, loss=self.loss)
            return
        yield from surrogate_losses(
            predictions(model, batch), self.estimator, draws=self.draws, seed=self.seed, first=first
        )


def by_hooks(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    sums: Sums,
    *,
    objective: Objective,
    first: int = 0,
    row: int = 0,
    where: str = "the batch",
) -> dict[str, str]:
    """Add the batch's squared per-sequence gradients of `parameters`; returns {name: reason} of those left out.

    `row` is the place of the batch's first sequence in `where`, for the words of an error.
    """
    tracer = Tracer(parameters, batch_size(batch), sums.add_uses)
    with preserved_requires_grad(model):
        with torch.enable_grad(), tracer:
            losses = objective.losses(model, tracer.mark(batch), first)
            current = next(losses)
        while current is not None:
            finite_losses(current, where, first=row)
            with torch.enable_grad():
                # the next surrogate needs the same graph: look ahead before letting this one go
                following = next(losses, None)
            tracer.backward(current, last=following is None)
            current = following
    return tracer.unsupported


def by_loop(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    sums: Sums,
    *,
    objective: Objective,
    first: int = 0,
    row: int = 0,
    where: str = "the batch",
) -> None:
    """The same by brute force: each sequence alone through the model, its gradient squared and added.

    `row` is the place of the batch's first sequence in the batch that `sums` has begun.
    """
    if not parameters:
        return
    names, tensors = list(parameters), list(parameters.values())
    with preserved_requires_grad(model):
        for tensor in tensors:
            tensor.requires_grad_(tensor.is_floating_point())
        for n in range(batch_size(batch)):
            with torch.enable_grad():
                losses = objective.losses(model, part_of(batch, slice(n, n + 1)), first + n)
                current = next(losses)
                while current is not None:
                    finite_losses(current, where, first=row + n)
                    following = next(losses, None)
                    keep = following is not None
                    gradients = torch.autograd.grad(current.sum(), tensors, allow_unused=True, retain_graph=keep)
                    for name, gradient in zip(names, gradients, strict=True):
                        sums.add_gradient(name, gradient, row + n)
                    current = following


def batch_size(batch: Batch) -> int:
    """The number of sequences in a batch."""
    reference = batch.get("labels", next(iter(batch.values())))
    return len(reference)


def part_of(batch: Batch, rows: slice) -> dict[str, Tensor]:
    """Some sequences of a batch; what has no row per sequence is passed on whole."""
    n = batch_size(batch)
    return {
        name: value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == n else value
        for name, value in batch.items()
    }
