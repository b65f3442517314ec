"""Hessian of the mean loss as an operator: products with vectors, by double backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import few, finite_losses, instance, module
from gdrop_viz.base.locks import give_way
from gdrop_viz.base.state import preserved_modes, preserved_requires_grad, preserved_rng
from gdrop_viz.curvature.density import density
from gdrop_viz.curvature.differentiation import STEPS, disagreement, twice_differentiable
from gdrop_viz.curvature.hutchinson import random_signs
from gdrop_viz.curvature.sequences import by_sequence
from gdrop_viz.curvature.spectrum import spectrum
from gdrop_viz.curvature.trace import trace
from gdrop_viz.fisher.batch import batch_size, part_of
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.differentiation import (
    check_known,
    check_weights,
    differentiable,
    gradients,
    moved,
    own_arithmetic,
    recordable,
    trainable,
)  # fmt: skip
from gdrop_viz.models.losses import Loss, checked_batches, sequence_losses
from gdrop_viz.perturbation.direction import Direction
from gdrop_viz.perturbation.selection import Selection


class Hessian:
    """The Hessian H = ∇²L of L = 1/N Σ_n L_n at the model's weights, as an operator on flat vectors.

    With a selection it is the block of H over the selected elements: vectors have one entry for each of them. The
    order is that of `names`, each tensor flattened, selected elements only.

    Fused attention has no second derivative: while products are computed, scaled-dot-product attention runs its
    mathematical form, and models with other kernels (flash, flex) are switched to it. The model is in eval mode, and
    is left as it was. Each product prepares the model anew; many of them are cheaper inside `with hessian:`.

    Parameters
    ----------
    model
        A module, or a `Pretrained`.
    batches
        The text: a list of batches (or one), each with N sequences.
    selection
        Over which parameters; all by default.
    loss
        As in `sequence_losses`, for models whose objective is another.

    Attributes
    ----------
    names, sizes
        The tensors, and how many (selected) elements each has.
    dtype
        Of vectors: float64 for float64 weights, else float32.

    Raises
    ------
    ValueError
        For no batches, an empty selection, or weights that are not finite.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> hessian = Hessian(model, [{"input": torch.tensor([[1.0, 2.0]])}], loss=square)
    >>> hessian @ np.array([1.0, 0.0])
    array([2., 4.], dtype=float32)
    >>> round(hessian.trace(n_probes=2, progress=False).layers["trace"].sum(), 4) in (2.0, 10.0, 18.0)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor],
        selection: Selection | None = None,
        loss: Loss | None = None,
    ) -> None:
        self._model, self._loss = undistributed(module(model)), loss
        check_weights(self._model)
        if selection is not None:
            selection = instance(selection, Selection, "selection", "top_k or random_k").on(self._model)
        self._selection = selection
        every = dict(self._model.named_parameters())
        self._left_out = [name for name, parameter in every.items() if not differentiable(parameter)]
        self._parameters = {
            name: parameter
            for name, parameter in every.items()
            if differentiable(parameter) and (selection is None or name in selection.masks)
        }
        self._trainable = trainable(self._parameters)
        self._chosen: dict[str, Tensor] = {}  # the masks of tensors that are selected in part
        if selection is not None:
            for name, parameter in self._parameters.items():
                if not selection.is_whole(name):
                    self._chosen[name] = selection.mask(name).to(parameter.device)
        self.names = list(self._parameters)
        self.sizes = [
            int(self._chosen[name].count_nonzero()) if name in self._chosen else parameter.numel()
            for name, parameter in self._parameters.items()
        ]
        if not sum(self.sizes):
            raise ValueError("expected at least one selected element, got an empty selection")
        first = next(iter(self._parameters.values()))
        self.dtype: np.dtype[np.floating[Any]] = np.dtype(np.float64 if first.dtype == torch.float64 else np.float32)
        with own_arithmetic():
            self.batches: list[Mapping[str, Any]] = [
                recordable(batch) for batch in checked_batches(model, batches, loss=loss)
            ]
        self._depth, self._contexts, self._checked = 0, ExitStack(), False

    spectrum, trace, density, by_sequence = spectrum, trace, density, by_sequence

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n), n the number of (selected) elements."""
        return (sum(self.sizes), sum(self.sizes))

    @property
    def label(self) -> str:
        """What the Hessian is over, in words."""
        if self._selection is not None:
            return self._selection.label
        return "all parameters" + (f" but {few(self._left_out)}, which are quantized" if self._left_out else "")

    def __enter__(self) -> Hessian:
        if not self._depth:
            with ExitStack() as stack:
                stack.enter_context(own_arithmetic())
                stack.enter_context(preserved_rng())
                stack.enter_context(preserved_modes(self._model))
                stack.enter_context(preserved_requires_grad(self._model))
                for parameter in self._parameters.values():  # autograd then does no work for the others
                    parameter.requires_grad_(True)
                stack.enter_context(twice_differentiable(self._model))
                if not self._checked:
                    self._check()
                    self._checked = True
                self._contexts = stack.pop_all()
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._contexts.close()

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H·v (n,), summed over the batches in the weights' precision; also `hessian @ v`.

        Raises ValueError for a vector of another length, or where losses or derivatives are not finite.
        """
        with self:
            parts = self._unflattened(vector)
            sums = self._filled([None] * len(self.names))
            n_sequences = 0
            for number, batch in enumerate(self.batches):
                give_way()
                losses, first = self._gradients(batch, f"batch {number}")
                n_sequences += len(losses)
                for total, second in zip(sums, self._seconds(first, parts), strict=True):
                    if second is not None:
                        total += second
            return self._flattened([total / n_sequences for total in sums])

    __matmul__ = matvec

    def of(
        self, batch: Mapping[str, Any], where: str = "the batch", first: int = 0
    ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Return gradient and Hessian (v -> H_b·v) of the SUM of one batch's losses; a forward pass serves them all.

        To be used inside `with hessian:`. `where` and `first`, the number of its first sequence there, are for the
        words of an error.
        """
        give_way()
        _, slopes = self._gradients(batch, where, first)

        def product(vector: np.ndarray) -> np.ndarray:
            return self._flattened(self._filled(self._seconds(slopes, self._unflattened(vector), keep=True)))

        return self._flattened(self._filled(slopes)), product

    def direction(self, vector: np.ndarray, label: str) -> Direction:
        """Return a flat vector as a `Direction` in weight space."""
        parts = dict(zip(self.names, self._unflattened(vector), strict=True))
        where = "" if self._selection is None else self._selection.label
        return Direction(parts, label=label, selection=where)

    def places(self, part: Selection) -> np.ndarray:
        """Return where the elements of `part` stand in a flat vector; those that H is not over are left out."""
        part = part.on(self._model)
        inside = []
        for name in self.names:
            mask = part.mask(name)
            inside.append(mask[self._chosen[name].cpu()] if name in self._chosen else mask.reshape(-1))
        return torch.cat(inside).nonzero().squeeze(1).numpy()

    def _check(self) -> None:
        """Hold a product, on two sequences, against differences of gradients: some forwards once per operator.

        Raises ValueError where a part of the model has no derivative, or a wrong one.
        """
        batch = part_of(self.batches[0], slice(0, min(2, batch_size(self.batches[0]))))
        with preserved_rng(0):
            _, first = self._gradients(batch, "batch 0")
        again = partial(sequence_losses, self._model, batch, loss=self._loss)
        check_known(self._model, again, self._parameters, first, self._trainable)
        signs = random_signs(self.shape[0], self.dtype, seed=0, probe=0)
        scales = [  # what the losses do not know of stands still
            0.0 if gradient is None else float(parameter.detach().float().square().mean().sqrt()) or 1.0
            for parameter, gradient in zip(self._parameters.values(), first, strict=True)
        ]
        along = self._unflattened(signs * np.repeat(np.array(scales, dtype=self.dtype), self.sizes))
        product = self._flattened(self._filled(self._seconds(first, along)))
        del first
        steps = dict(zip(self.names, along, strict=True))
        differences = []
        for step in STEPS:
            ends = []
            for sign in (1, -1):
                with moved(self._parameters, steps, sign * step), preserved_rng(0):
                    losses = sequence_losses(self._model, batch, loss=self._loss)
                    ends.append(self._filled(gradients(losses, list(self._parameters.values()))))
            slopes = [(after - before) / (2 * step) for after, before in zip(*ends, strict=True)]
            differences.append(self._flattened(slopes, finite=False))
        if (found := disagreement(product, differences, self.sizes)) is not None:
            block, off = found
            raise ValueError(
                f"expected second derivatives that agree with differences of gradients, got {off:.0%} off in "
                f"{self.names[block]!r}: a function inside the model has a wrong second derivative; run its plain form"
            )

    def _gradients(
        self, batch: Mapping[str, Any], where: str, first: int = 0
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The losses of a batch, and the gradients of their sum as functions of the weights."""
        losses = sequence_losses(self._model, batch, loss=self._loss)
        finite_losses(losses, where, first=first)
        return losses, gradients(losses, list(self._parameters.values()), create_graph=True)

    def _seconds(
        self, first: Sequence[Tensor | None], vector: Sequence[Tensor], *, keep: bool = False
    ) -> Sequence[Tensor | None]:
        """The derivatives of gradient·vector; `keep` the graph for another vector."""
        terms = [
            (gradient * part).sum()
            for gradient, part in zip(first, vector, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not terms:  # a loss that is linear in the weights
            return [None] * len(vector)
        return gradients(sum(terms[1:], terms[0]), list(self._parameters.values()), retain_graph=keep)

    def _filled(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        return [
            torch.zeros_like(p) if t is None else t for t, p in zip(tensors, self._parameters.values(), strict=True)
        ]

    def _blocks(self, vector: np.ndarray) -> list[np.ndarray]:
        return np.split(vector, np.cumsum(self.sizes)[:-1])

    def _unflattened(self, vector: np.ndarray) -> list[Tensor]:
        flat = np.asarray(vector).reshape(-1)
        if len(flat) != self.shape[0]:
            raise ValueError(f"expected a vector of {self.shape[0]:,} entries, got {len(flat):,}; see Hessian.shape")
        out = []
        for block, (name, parameter) in zip(self._blocks(flat), self._parameters.items(), strict=True):
            values = torch.from_numpy(np.ascontiguousarray(block)).to(parameter.device, parameter.dtype)
            if name not in self._chosen:
                out.append(values.reshape(parameter.shape))
            else:
                whole = torch.zeros_like(parameter, requires_grad=False)
                whole[self._chosen[name]] = values
                out.append(whole)
        return out

    def _flattened(self, tensors: Sequence[Tensor], *, finite: bool = True) -> np.ndarray:
        out = np.empty(self.shape[0], dtype=self.dtype)
        for block, tensor, name in zip(self._blocks(out), tensors, self.names, strict=True):
            values = tensor[self._chosen[name]] if name in self._chosen else tensor.reshape(-1)
            if finite and not bool(torch.isfinite(values).all()):
                half = tensor.dtype in (torch.float16, torch.bfloat16)
                raise ValueError(
                    f"the derivative of the loss (first or second) by {name!r} is not finite although the losses are; "
                    + (
                        f"{str(tensor.dtype).removeprefix('torch.')} overflows: take the weights as model.float()"
                        if half
                        else "look for a square root or a division at 0, or for padding that attends to nothing"
                    )
                )
            block[:] = values.detach().to("cpu", torch.float64 if self.dtype == np.float64 else torch.float32).numpy()
        return out
