"""Squared per-sequence gradients of one batch: from one batched backward pass, or from a loop over its sequences.

The loop is the definition written down: one forward and one backward per sequence. The batched way gives the same
numbers at the price of one backward pass for the whole batch; what it does not cover goes through the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import finite_losses
from gdrop_viz.base.state import preserved_requires_grad
from gdrop_viz.fisher.estimators import surrogate_losses
from gdrop_viz.fisher.per_sample import Use
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


@dataclass(frozen=True)
class Part:
    """Sequences of a batch, all or some of them, and where they come from.

    first: number of the first one in the whole text, to which its random labels belong.
    row: its row in its batch, which `where` names in error messages.
    """

    batch: Batch
    first: int = 0
    row: int = 0
    where: str = "the batch"

    def __len__(self) -> int:
        return batch_size(self.batch)

    def rows(self, start: int, stop: int) -> Part:
        """The sequences `start` .. `stop` - 1 of these."""
        return Part(part_of(self.batch, slice(start, stop)), self.first + start, self.row + start, self.where)

    def halves(self) -> tuple[Part, Part]:
        """The first half of these sequences and the second."""
        middle = len(self) // 2
        return self.rows(0, middle), self.rows(middle, len(self))


@dataclass(frozen=True)
class Traced:
    """What a batched pass found: {name: reason} of the parameters left out, and the kinds of use of all."""

    left_out: dict[str, str]
    kinds: dict[str, frozenset[str]]


def add_batched(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    part: Part,
    sums: Sums,
    objective: Objective,
    *,
    added: dict[str, int] | None = None,
    checked: Mapping[str, frozenset[str]] | None = None,
) -> Traced:
    """Add the squared per-sequence gradients of `parameters` to `sums`, all but those left out.

    added: {name: how many backward passes of this part are in `sums` already}, kept up to date, so that a part that
        ran out of memory can go on in halves.
    checked: {name: the kinds of use that were compared with the loop}: a parameter with another use is left out.
    """
    added = {} if added is None else added
    passes = 0

    def add(name: str, uses: list[Use]) -> None:
        if added.get(name, 0) <= passes:
            sums.add_uses(name, uses, part.row)
            added[name] = passes + 1

    tracer = Tracer(parameters, len(part), add)
    with preserved_requires_grad(model):
        with torch.enable_grad(), tracer:
            losses = objective.losses(model, tracer.inputs(part.batch), part.first)
            current: Tensor | None = next(losses)
        kinds = tracer.kinds()
        if checked is not None and len(part) > 1:  # the rows of a single sequence are its own, whatever their layout
            for name in parameters:
                if not kinds[name] <= checked[name]:
                    tracer.unsupported.setdefault(name, "it is used in another way than in the self-check")
        while current is not None:
            finite_losses(current, part.where, first=part.row)
            with torch.enable_grad():
                # the next surrogate needs the same graph: look ahead before letting this one go
                following = next(losses, None)
            tracer.backward(current, last=following is None)
            current, passes = following, passes + 1
    return Traced(tracer.unsupported, kinds)


def add_looped(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], part: Part, sums: Sums, objective: Objective
) -> None:
    """Add the same by brute force: each sequence alone through the model, its gradient squared and added."""
    if not parameters:
        return
    names, tensors = list(parameters), list(parameters.values())
    with preserved_requires_grad(model):
        for tensor in tensors:
            tensor.requires_grad_(tensor.is_floating_point())
        for n in range(len(part)):
            one = part.rows(n, n + 1)
            with torch.enable_grad():
                losses = objective.losses(model, one.batch, one.first)
                current: Tensor | None = next(losses)
                while current is not None:
                    finite_losses(current, part.where, first=one.row)
                    following = next(losses, None)
                    keep = following is not None
                    if current.requires_grad:  # else no parameter takes part in it
                        gradients = torch.autograd.grad(current.sum(), tensors, allow_unused=True, retain_graph=keep)
                        for name, gradient in zip(names, gradients, strict=True):
                            sums.add_gradient(name, gradient, one.row)
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
