"""Rules of how a call uses its parameters: product, look-up, norm, elementwise, and anything else by copies.

A rule gets a call before it is run and returns the uses of its output, as pairs (tensor, its use); the tracer then runs
the call. None stands for "no formula": the tracer gives every sequence its own copy (`copies`). A rule raises
Unsupported where neither is possible: the parameter goes through the loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gdrop_viz.base.nested import tensors_in
from gdrop_viz.fisher.per_sample import ElementwiseUse, MatrixUse, RowwiseUse, TableUse, Use
from gdrop_viz.fisher.row_order import RowOrder, order_of


class Unsupported(Exception):
    """A parameter met the batch in a way that no rule covers."""


class Forward(Protocol):
    """What the rules ask about a forward pass in progress."""

    sequences: int

    def is_tracked(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or derived from parameters alone."""

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether it is one of the parameters themselves."""

    def is_of_batch(self, tensor: Tensor) -> bool:
        """Whether it was computed from the batch."""

    def offsets(self, tensor: Tensor, shape: torch.Size) -> tuple[int, ...]:
        """Rows of each sequence in `tensor`, of whose axes those of `shape` are flattened; Unsupported if unknown."""

    def flattened(self, inputs: Tensor) -> Tensor:
        """`inputs` as rows."""


Uses = list[tuple[Tensor, Use]]
Rule = Callable[[Forward, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Uses | None]


def _bound(signature: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(signature).bind(*args, **kwargs)
    except TypeError as error:
        raise Unsupported(str(error)) from error
    bound.apply_defaults()
    return bound.arguments


def _linear(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
    call = _bound(lambda input, weight, bias=None: None, args, kwargs)
    return _product(forward, call["input"], call["weight"], call["bias"], transposed=False)


def _addmm(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
    call = _bound(lambda input, mat1, mat2, *, beta=1, alpha=1: None, args, kwargs)
    if call["beta"] != 1 or call["alpha"] != 1:
        raise Unsupported("addmm with beta or alpha")
    return _product(forward, call["mat1"], call["mat2"], call["input"], transposed=True)


def _matmul(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
    call = _bound(lambda input, other: None, args, kwargs)
    if call["other"].dim() != 2 or forward.is_tracked(call["input"]):
        return None
    return _product(forward, call["input"], call["other"], None, transposed=True)


def _product(forward: Forward, inputs: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Uses:
    """input @ weight (or weightᵀ) + bias."""
    if forward.is_tracked(inputs) or weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        raise Unsupported("a matrix product whose operands are not (rows, matrix, vector)")
    offsets = forward.offsets(inputs, inputs.shape[:-1])
    uses: Uses = [(weight, MatrixUse(weight.shape, offsets, forward.flattened(inputs), transposed))]
    if bias is not None:
        uses.append((bias, ElementwiseUse(bias.shape, offsets, partial(_sums, None, bias.shape, offsets))))
    return uses


def table_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, int | None]:
    """Index, weight and padding row of a look-up (`F.embedding`); Unsupported if it renormalises or rescales."""
    call = _bound(
        lambda input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False: (
            None
        ),
        args,
        kwargs,
    )
    index, weight, padding = call["input"], call["weight"], call["padding_idx"]
    if call["max_norm"] is not None or call["scale_grad_by_freq"]:
        raise Unsupported("an embedding that renormalises or rescales")
    if padding is not None and padding < 0:
        padding += weight.shape[0]
    return index, weight, padding


def _embedding(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
    index, weight, padding = table_of(args, kwargs)
    offsets = forward.offsets(index, index.shape)
    return [(weight, TableUse(weight.shape, offsets, index.reshape(-1), padding))]


def _norm(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
    """Layer norm and RMS norm: the factor of the weight is the normalised input."""
    call = _bound(lambda input, normalized_shape, weight=None, bias=None, eps=None: None, args, kwargs)
    inputs, shape = call["input"], tuple(call["normalized_shape"])
    if forward.is_tracked(inputs):
        raise Unsupported("a norm of something derived from parameters")
    offsets = forward.offsets(inputs, inputs.shape[:-1])
    eps = {} if call["eps"] is None else {"eps": call["eps"]}
    uses: Uses = []
    if call["weight"] is not None:
        normalised = partial(func, inputs.detach(), shape, **eps)
        reduce = partial(_sums, normalised, call["weight"].shape, offsets)
        uses.append((call["weight"], ElementwiseUse(call["weight"].shape, offsets, reduce)))
    if call["bias"] is not None:
        reduce = partial(_sums, None, call["bias"].shape, offsets)
        uses.append((call["bias"], ElementwiseUse(call["bias"].shape, offsets, reduce)))
    return uses


def _elementwise(factor_of: Callable[[Tensor], Callable[[], Tensor] | None], second_sign: int = 1) -> Rule:
    """Rule of a call `first op second`: the gradient of one operand is the output's times a factor."""

    def rule(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Uses | None:
        call = _bound(lambda input, other, alpha=1: None, args, kwargs)
        first, second = call["input"], call["other"]
        if call["alpha"] != 1 or not isinstance(first, Tensor) or not isinstance(second, Tensor):
            raise Unsupported("an elementwise call with alpha")
        tracked, other, sign = (second, first, second_sign) if forward.is_tracked(second) else (first, second, 1)
        if forward.is_tracked(other):
            raise Unsupported("an elementwise call on two tensors derived from parameters")
        if tracked is first and func in _IN_PLACE:
            raise Unsupported("a parameter overwritten in place")
        if tracked.dim() > other.dim():
            raise Unsupported("an elementwise call whose output has more axes than the batch's tensor")
        in_place, shape = func in _IN_PLACE, tracked.shape
        factor = factor_of(other.detach())
        if in_place and factor is not None:
            raise Unsupported("a product in place")
        rowwise = tracked.dim() == other.dim() and shape[0] == other.shape[0] != 1
        if rowwise and (factor is not None or sign != 1 or shape != other.shape):
            raise Unsupported("a factor with a row per sequence")
        offsets = forward.offsets(other, other.shape[:-1])
        if rowwise:
            rows = tuple(range(0, shape[0] + 1, shape[0] // forward.sequences))
            return [(tracked, RowwiseUse(shape, rows))]
        reduce = partial(_sums, factor, shape, offsets, sign=sign)
        return [(tracked, ElementwiseUse(shape, offsets, reduce))]

    return rule


def copies(forward: Forward, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, tuple[Tensor, Use]]:
    """Copies of what is derived, a row or more for each sequence, whose gradients are then the sequences' own.

    Returns {id(derived tensor): (its copy, the use of the derived tensor in it)}, for any call without a formula.
    """
    sequences = forward.sequences
    tensors = list(tensors_in((args, kwargs)))
    tracked = {id(tensor): tensor for tensor in tensors if forward.is_tracked(tensor)}
    others = [tensor for tensor in tensors if id(tensor) not in tracked and forward.is_of_batch(tensor)]
    found: dict[int, tuple[Tensor, Use]] = {}
    for key, tensor in tracked.items():
        fits = [other for other in others if other.dim() == tensor.dim() and _is_by_sequence(other)]
        height = fits[0].shape[0] if fits else 0
        if forward.is_parameter(tensor) or tensor.dim() < 2:
            height = 0
        if tensor.shape[0] == 1 and height == sequences:
            copy = tensor.detach().expand(sequences, *tensor.shape[1:]).clone()
            use: Use = ElementwiseUse(tensor.shape, tuple(range(sequences + 1)), lambda grad: grad.unsqueeze(1))
        elif height and tensor.shape[0] == height and height % sequences == 0:
            copy = tensor.detach().clone()
            use = RowwiseUse(tensor.shape, tuple(range(0, height + 1, height // sequences)))
        else:
            raise Unsupported(f"no rule for {getattr(func, '__name__', func)}")
        found[key] = copy, use
    return found


def _is_by_sequence(tensor: Tensor) -> bool:
    return order_of(tensor) in (None, RowOrder.BY_SEQUENCE)


def _sums(
    factor: Callable[[], Tensor] | None,
    shape: torch.Size,
    offsets: tuple[int, ...],
    grad: Tensor,
    *,
    sign: int = 1,
) -> Tensor:
    """Σ over each sequence's rows of grad ∘ factor, reduced to the (broadcast) parameter's shape: (N, *shape)."""
    values = grad if factor is None else grad * factor()
    values = values if sign == 1 else -values
    sequences = len(offsets) - 1
    equal = offsets == tuple(range(0, offsets[-1] + 1, max(1, offsets[-1] // sequences)))
    if equal and values.shape[0] % sequences == 0 and values.dim() > len(shape):
        # the common case: an equal share of the first axis for each sequence
        return _sum_to(values.reshape(sequences, values.shape[0] // sequences, *values.shape[1:]), shape)
    if values.dim() == len(shape) and len(shape) and shape[0] == 1 and values.shape[0] == sequences:
        return _sum_to(values, shape[1:]).unsqueeze(1)
    if values.dim() <= len(shape) or values.shape[:2].numel() != offsets[-1]:
        raise RuntimeError(f"cannot reduce a gradient of shape {tuple(values.shape)} to {tuple(shape)} per sequence")
    rows = values.flatten(0, 1)
    index = torch.repeat_interleave(
        torch.arange(sequences, device=rows.device), torch.tensor(offsets, device=rows.device).diff()
    )
    return _sum_to(rows.new_zeros(sequences, *rows.shape[1:]).index_add_(0, index, rows), shape)


def _sum_to(values: Tensor, shape: torch.Size) -> Tensor:
    """Sum (N, *rest) over the axes along which `shape` was broadcast to rest: (N, *shape)."""
    extra = values.dim() - 1 - len(shape)
    if extra:
        values = values.sum(dim=tuple(range(1, 1 + extra)))
    ones = [axis + 1 for axis, size in enumerate(shape) if size == 1 and values.shape[axis + 1] != 1]
    return values.sum(dim=ones, keepdim=True) if ones else values


def _summand(other: Tensor) -> None:
    return None


def _factor(other: Tensor) -> Callable[[], Tensor]:
    return lambda: other


_ADD = _elementwise(_summand)
_SUBTRACT = _elementwise(_summand, second_sign=-1)
_MULTIPLY = _elementwise(_factor)

_IN_PLACE = {torch.Tensor.add_, torch.Tensor.__iadd__, torch.Tensor.mul_, torch.Tensor.__imul__}

RULES: dict[Any, Rule] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    torch.Tensor.addmm: _addmm,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    F.embedding: _embedding,
    F.layer_norm: _norm,
    F.rms_norm: _norm,
    torch.add: _ADD,
    torch.Tensor.add: _ADD,
    torch.Tensor.add_: _ADD,
    torch.Tensor.__add__: _ADD,
    torch.Tensor.__radd__: _ADD,
    torch.Tensor.__iadd__: _ADD,
    torch.sub: _SUBTRACT,
    torch.Tensor.sub: _SUBTRACT,
    torch.Tensor.__sub__: _SUBTRACT,
    torch.mul: _MULTIPLY,
    torch.Tensor.mul: _MULTIPLY,
    torch.Tensor.__mul__: _MULTIPLY,
    torch.Tensor.__rmul__: _MULTIPLY,
}
