"""How does the gradient change along a direction? Hessian-vector products of the mean loss, by double backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import finite_losses, finite_weights
from gdrop_viz.base.state import preserved_modes, preserved_requires_grad, preserved_rng
from gdrop_viz.models.losses import Loss, sequence_losses
from gdrop_viz.perturbation.directions import Direction
from gdrop_viz.perturbation.selection import Selection


class Hessian:
    """The Hessian H = ∇²L of L = 1/N Σ_n L_n at the model's weights, as an operator on flat vectors; a context.

    With a selection it is the block of H over the selected elements: vectors have one entry for each of them. The
    order is that of `names`, each tensor flattened, selected elements only.

    Fused attention has no second derivative: inside the context scaled-dot-product attention runs its mathematical
    form, and models with other kernels (flash, flex) are switched to it. The model is in eval mode, and is left as
    it was.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> with Hessian(model, [{"input": torch.tensor([[1.0, 2.0]])}], loss=square) as hessian:
    ...     hessian @ np.array([1.0, 0.0])
    array([2., 4.], dtype=float32)
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, Tensor]],
        *,
        selection: Selection | None = None,
        loss: Loss | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass lm.model")
        if selection is not None:
            if not isinstance(selection, Selection):
                raise TypeError(f"expected selection= to be a Selection, got {type(selection).__name__}; use top_k")
            selection = selection.on(model)
        self._batches = [batches] if isinstance(batches, Mapping) else list(batches)
        if not self._batches:
            raise ValueError("expected at least one batch, got none; see pretraining_batches")
        self._model, self._loss, self._selection = model, loss, selection
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point() and (selection is None or name in selection.masks)
        }
        finite_weights(model.named_parameters())
        self._chosen = {
            name: None if selection is None or selection.is_whole(name) else selection.mask(name).to(parameter.device)
            for name, parameter in self._parameters.items()
        }
        self.names = list(self._parameters)
        self.sizes = [
            parameter.numel() if self._chosen[name] is None else int(self._chosen[name].count_nonzero())
            for name, parameter in self._parameters.items()
        ]
        if not sum(self.sizes):
            raise ValueError("expected at least one selected element, got an empty selection")
        first = next(iter(self._parameters.values()))
        self.dtype = np.dtype(np.float64 if first.dtype == torch.float64 else np.float32)
        self._contexts = ExitStack()

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n), n the number of (selected) elements."""
        return (sum(self.sizes), sum(self.sizes))

    @property
    def label(self) -> str:
        """What the Hessian is over, in words."""
        return "all parameters" if self._selection is None else self._selection.label

    def __enter__(self) -> Hessian:
        with ExitStack() as stack:
            stack.enter_context(preserved_rng())
            stack.enter_context(preserved_modes(self._model))
            stack.enter_context(preserved_requires_grad(self._model))
            for parameter in self._parameters.values():  # autograd then does no work for the others
                parameter.requires_grad_(True)
            stack.enter_context(twice_differentiable(self._model))
            self._contexts = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.close()

    def __matmul__(self, vector: np.ndarray) -> np.ndarray:
        """Return H·v, summed over the batches in the weights' precision."""
        part = self._unflattened(vector)
        parameters = list(self._parameters.values())
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        n_sequences = 0
        for number, batch in enumerate(self._batches):
            losses, gradients = self._gradients(batch, f"batch {number}")
            n_sequences += len(losses)
            for total, second in zip(sums, self._seconds(gradients, part), strict=True):
                if second is not None:
                    total += second
        return self._flattened([total / n_sequences for total in sums])

    def of(
        self, batch: Mapping[str, Tensor], where: str = "the batch", first: int = 0
    ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Return gradient and Hessian (v -> H_b·v) of the SUM of one batch's losses; a forward pass serves them all.

        `where` and `first`, the number of its first sequence there, are for the words of an error.
        """
        _, gradients = self._gradients(batch, where, first)
        zeros = [torch.zeros_like(parameter) for parameter in self._parameters.values()]

        def flat(tensors: Sequence[Tensor | None]) -> np.ndarray:
            return self._flattened([zero if t is None else t for t, zero in zip(tensors, zeros, strict=True)])

        def product(vector: np.ndarray) -> np.ndarray:
            return flat(self._seconds(gradients, self._unflattened(vector), keep=True))

        return flat(gradients), product

    def direction(self, vector: np.ndarray, label: str) -> Direction:
        """Return a flat vector as a `Direction` in weight space."""
        parts = dict(zip(self.names, self._unflattened(vector), strict=True))
        where = "" if self._selection is None else self._selection.label
        return Direction(parts, label=label, selection=where)

    def blocks(self, vector: np.ndarray) -> list[np.ndarray]:
        """Cut a flat vector into the entries of each tensor, in the order of `names`."""
        return np.split(vector, np.cumsum(self.sizes)[:-1])

    def sums(self, vector: np.ndarray, places: Mapping[str, np.ndarray]) -> list[float]:
        """The sums of a flat vector's entries over each tensor, then over each of `places`."""
        sums = [float(block.sum(dtype=np.float64)) for block in self.blocks(vector)]
        return sums + [float(vector[place].sum(dtype=np.float64)) for place in places.values()]

    def places(self, part: Selection) -> np.ndarray:
        """Return where the elements of `part` stand in a flat vector; those that H is not over are left out."""
        part = part.on(self._model)
        inside = []
        for name in self.names:
            mask, chosen = part.mask(name), self._chosen[name]
            inside.append(mask.reshape(-1) if chosen is None else mask[chosen.cpu()])
        return torch.cat(inside).nonzero().squeeze(1).numpy()

    def _gradients(
        self, batch: Mapping[str, Tensor], where: str, first: int = 0
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The losses of a batch, and the gradients of their sum as functions of the weights."""
        parameters = list(self._parameters.values())
        with torch.enable_grad():
            batch = {name: value.to(parameters[0].device) for name, value in batch.items()}
            losses = sequence_losses(self._model, batch, loss=self._loss)
            finite_losses(losses, where, first=first)
            return losses, torch.autograd.grad(losses.sum(), parameters, create_graph=True, allow_unused=True)

    def _seconds(
        self, gradients: Sequence[Tensor | None], vector: Sequence[Tensor], *, keep: bool = False
    ) -> Sequence[Tensor | None]:
        """The derivatives of gradient·vector; `keep` the graph for another vector."""
        with torch.enable_grad():
            product = sum(
                (gradient * part).sum()
                for gradient, part in zip(gradients, vector, strict=True)
                if gradient is not None and gradient.requires_grad
            )
            if not isinstance(product, Tensor):  # a loss that is linear in the weights
                return [None] * len(vector)
            return torch.autograd.grad(product, list(self._parameters.values()), allow_unused=True, retain_graph=keep)

    def _unflattened(self, vector: np.ndarray) -> list[Tensor]:
        out = []
        for block, (name, parameter) in zip(
            self.blocks(np.asarray(vector).reshape(-1)), self._parameters.items(), strict=True
        ):
            values = torch.from_numpy(np.ascontiguousarray(block)).to(parameter.device, parameter.dtype)
            chosen = self._chosen[name]
            if chosen is None:
                out.append(values.reshape(parameter.shape))
            else:
                whole = torch.zeros_like(parameter, requires_grad=False)
                whole[chosen] = values
                out.append(whole)
        return out

    def _flattened(self, tensors: Sequence[Tensor]) -> np.ndarray:
        out = np.empty(sum(self.sizes), dtype=self.dtype)
        for block, tensor, name in zip(self.blocks(out), tensors, self.names, strict=True):
            chosen = self._chosen[name]
            values = tensor.reshape(-1) if chosen is None else tensor[chosen]
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"the derivative of the loss (first or second) by {name!r} is not finite although the losses are; "
                    "look for a square root or a division at 0, or for padding that attends to nothing"
                )
            block[:] = values.detach().to("cpu", torch.float64 if self.dtype == np.float64 else torch.float32).numpy()
        return out


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Run attention in a form that has a second derivative; the model's choice is restored afterwards."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    config = getattr(model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    switched = attention not in (None, "eager", "sdpa") and hasattr(model, "set_attn_implementation")
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        if switched:
            model.set_attn_implementation("eager")
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layers)
        if switched:
            model.set_attn_implementation(attention)


def random_signs(n: int, dtype: Any, *, seed: int, probe: int) -> np.ndarray:
    """n independent ±1 (Rademacher), the probes of trace and density estimates."""
    return np.random.default_rng([seed, probe]).integers(0, 2, n, dtype=np.int8).astype(dtype) * 2 - 1
