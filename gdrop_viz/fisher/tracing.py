"""Where does a forward pass use its parameters? One torch function mode sees every call, whatever the model's classes.

Three notions suffice:
- a tensor is *of the batch* if it was computed from the batch's tensors; rows along its first axis belong to sequences;
- a tensor is *derived* if it was computed from parameters and constants alone (`1 + weight`, `weight.T`, a table of
  relative position biases): autograd keeps the way back to its parameters;
- a *use* is a call in which a parameter, or something derived, meets a tensor of the batch. Each kind of call that has
  a rule becomes a `Use` (per_sample.py) and a hook on the call's output brings its gradient.

Parameters that meet the batch in a call without a rule are `unsupported`: the caller has the loop for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gdrop_viz.fisher.per_sample import ElementwiseUse, MatrixUse, PulledBackUse, RowwiseUse, TableUse, Use

# The mark of a batch tensor: True = the first axis is the sequences' (times any number of rows each), a tuple = rows
# gathered from the sequences at these offsets (by the LM head, see objectives.py), False = rows in an unknown order.
_MARK = "_sequence_offsets"


class Unsupported(Exception):
    """A parameter met the batch in a way that no rule covers."""


@dataclass(frozen=True)
class _Derived:
    graph: Tensor  # has the autograd way back to `leaves`
    leaves: dict[str, Tensor]


class Tracer(TorchFunctionMode):
    """Record every use of `parameters` while the mode is on; afterwards backward calls `ready(name, uses)` for each.

    `ready` is called as soon as the gradients of all uses of a parameter have arrived, so that nothing is kept longer
    than needed. `sequences` is N, the batch size.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], sequences: int, ready: Callable[[str, list[Use]], None]
    ) -> None:
        super().__init__()
        self.parameters = dict(parameters)
        self.sequences = sequences
        self.ready = ready
        self.uses: dict[str, list[Use]] = {name: [] for name in parameters}
        self.unsupported: dict[str, str] = {}
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._leaves: dict[str, Tensor] = {}
        self._derived: dict[int, tuple[Tensor, _Derived]] = {}
        self._waiting: dict[str, int] = {}
        self._arrivals: set[int] = set()
        self._last_input: tuple[Tensor, Tensor] | None = None

    def flattened(self, inputs: Tensor) -> Tensor:
        """`inputs` as rows; the same object for successive calls on one tensor (query, key, value share theirs)."""
        if self._last_input is None or self._last_input[0] is not inputs:
            self._last_input = inputs, inputs.detach().reshape(-1, inputs.shape[-1])
        return self._last_input[1]

    def mark(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch with its tensors marked (as new tensor objects: the caller's are not touched)."""
        marked = {name: value.detach() if isinstance(value, Tensor) else value for name, value in batch.items()}
        for value in marked.values():
            if isinstance(value, Tensor):
                setattr(value, _MARK, True)
        return marked

    def backward(self, losses: Tensor, *, last: bool = True) -> None:
        """Run backward from Σ_n L_n, calling `ready` for every supported parameter that was used."""
        self._last_input = None
        self._waiting = {name: len(uses) for name, uses in self.uses.items() if uses and name not in self.unsupported}
        self._arrivals.clear()
        if losses.requires_grad:
            losses.sum().backward(retain_graph=not last)
        # a use whose output has no way to the loss never hears of it: its share of the gradient is zero
        for name in list(self._waiting):
            heard = [use for use in self.uses[name] if id(use) in self._arrivals]
            del self._waiting[name]
            if heard:
                self.ready(name, heard)

    # --- the mode ----------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        tracked = [tensor for tensor in tensors if self._is_tracked(tensor)]
        if not tracked:
            return self._propagate(func, tensors, func(*args, **kwargs))
        others = [tensor for tensor in tensors if not self._is_tracked(tensor) and self._is_of_batch(tensor)]
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)  # what the model computes without gradients has none
        if not others and not self._looks_up_sequences(func, args, kwargs):
            return self._derive(func, args, kwargs, tracked)
        try:
            rule = _RULES.get(func, _expanded)
            output = rule(self, func, args, kwargs)
        except Unsupported as reason:
            for tensor in tracked:
                for name in self._sources(tensor):
                    self.unsupported.setdefault(name, str(reason))
            args, kwargs = self._plain((args, kwargs))
            output = func(*args, **kwargs)
        return self._propagate(func, others, output)

    def _propagate(self, func: Callable[..., Any], inputs: list[Tensor], output: Any) -> Any:
        marks = [mark for tensor in inputs if (mark := getattr(tensor, _MARK, None)) is not None]
        if func is torch.Tensor.__setitem__ and marks:
            setattr(inputs[0], _MARK, True)
        if not marks:
            return output
        mark: Any = True
        if func in _SCATTERS or (func in _ALIGNING and True in marks):
            mark = True
        elif False in marks or (func in _GATHERS and self._regroups(inputs)):
            mark = False
        else:
            mark = next((mark for mark in marks if isinstance(mark, tuple)), True)
        for tensor in _tensors(output):
            if getattr(tensor, _MARK, None) is None or mark is not True:
                setattr(tensor, _MARK, mark)
        return output

    def _regroups(self, inputs: list[Tensor]) -> bool:
        """Whether rows are picked by a tensor that depends on the batch: their order then says nothing of sequences."""
        indices = inputs[1:]
        return any(
            getattr(index, _MARK, None) is not None and index.dtype in (torch.int64, torch.int32, torch.bool)
            for index in indices
        )

    # --- what is what ------------------------------------------------------------------------------------------------

    def _is_tracked(self, tensor: Tensor) -> bool:
        return id(tensor) in self._names or id(tensor) in self._derived

    def _is_of_batch(self, tensor: Tensor) -> bool:
        mark = getattr(tensor, _MARK, None)
        if tensor.requires_grad:
            return True
        if mark is None or tensor.dim() == 0:
            return False
        # what merely was made from the batch's shape (arange on its device) has no row per sequence: a constant
        return mark is not True or tensor.shape[0] % self.sequences == 0

    def _looks_up_sequences(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if func is not F.embedding:
            return False
        index = args[0] if args else kwargs["input"]
        return index.dim() > 1 and index.shape[0] == self.sequences

    def _sources(self, tensor: Tensor) -> list[str]:
        name = self._names.get(id(tensor))
        return [name] if name is not None else list(self._derived[id(tensor)][1].leaves)

    def _plain(self, value: Any) -> Any:
        """Arguments with derived tensors cut off from their parameters: the ordinary forward."""
        return _map(value, lambda tensor: tensor.detach() if id(tensor) in self._derived else tensor)

    def _derive(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]
    ) -> Any:
        """Compute something from parameters and constants alone, keeping the way back."""
        leaves: dict[str, Tensor] = {}
        for tensor in tracked:
            if (name := self._names.get(id(tensor))) is not None:
                if name not in self._leaves:
                    self._leaves[name] = tensor.detach().requires_grad_(tensor.is_floating_point())
                leaves[name] = self._leaves[name]
            else:
                leaves.update(self._derived[id(tensor)][1].leaves)

        def graph_of(tensor: Tensor) -> Tensor:
            if (name := self._names.get(id(tensor))) is not None:
                return self._leaves[name]
            return self._derived[id(tensor)][1].graph if id(tensor) in self._derived else tensor

        with torch.enable_grad():
            args, kwargs = _map((args, kwargs), graph_of)
            output = func(*args, **kwargs)
        for tensor in _tensors(output):
            if tensor.requires_grad:
                self._derived[id(tensor)] = tensor, _Derived(tensor, leaves)
        return output

    def offsets(self, tensor: Tensor) -> tuple[int, ...]:
        """Rows of each sequence when all axes but the last are flattened. Raises Unsupported if they are unknown."""
        mark = getattr(tensor, _MARK, None)
        if isinstance(mark, tuple):
            return mark
        if mark is False or tensor.dim() == 0 or tensor.shape[0] % self.sequences:
            raise Unsupported(f"its input has rows in an unknown order, shape {tuple(tensor.shape)}")
        length = tensor.shape[:-1].numel() // self.sequences
        return tuple(range(0, length * self.sequences + 1, length)) if length else (0,) * (self.sequences + 1)

    # --- recording ---------------------------------------------------------------------------------------------------

    def record(self, output: Tensor, uses: list[tuple[Tensor, Use]]) -> Tensor:
        """Register `uses`, pairs (tracked tensor, its use), of one call; returns the output to hand on to the model.

        What a use keeps of the forward is what autograd itself would keep for the parameter's gradient, so a model that
        overwrites it in place cannot be trained either.
        """
        if not output.requires_grad:
            output.requires_grad_()
            # the model may write into this output, which torch forbids for a leaf
            hooked, output = output, output.clone()
        else:
            hooked = output
        owned: list[tuple[Use, dict[str, Use]]] = []
        for tensor, use in uses:
            if not self._is_tracked(tensor):
                continue
            named = self._uses_of_sources(tensor, use)
            for name, one in named.items():
                self.uses[name].append(one)
            owned.append((use, named))
        hooked.register_hook(partial(self._arrived, owned))
        return output

    def _uses_of_sources(self, tensor: Tensor, use: Use) -> dict[str, Use]:
        name = self._names.get(id(tensor))
        if name is not None:
            return {name: use}
        derived = self._derived[id(tensor)][1]
        return {
            name: PulledBackUse(leaf.shape, use.offsets, use, partial(_pull_back, derived.graph, leaf))
            for name, leaf in derived.leaves.items()
        }

    def _arrived(self, owned: list[tuple[Use, dict[str, Use]]], grad: Tensor) -> None:
        grad = grad.detach()
        for use, named in owned:
            use.receive(grad)
            for name, one in named.items():
                self._arrivals.add(id(one))
                if name not in self._waiting:
                    continue
                self._waiting[name] -= 1
                if not self._waiting[name]:
                    del self._waiting[name]
                    self.ready(name, self.uses[name])


def _pull_back(graph: Tensor, leaf: Tensor, gradient: Tensor) -> Tensor:
    (pulled,) = torch.autograd.grad(graph, leaf, gradient.to(graph.dtype), retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if pulled is None else pulled


# --- rules: how a call uses its parameters ---------------------------------------------------------------------------

_Rule = Callable[[Tracer, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Tensor]


def _bound(signature: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(signature).bind(*args, **kwargs)
    except TypeError as error:
        raise Unsupported(str(error)) from error
    bound.apply_defaults()
    return bound.arguments


def _linear(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    call = _bound(lambda input, weight, bias=None: None, args, kwargs)
    return _product(tracer, func, args, kwargs, call["input"], call["weight"], call["bias"], transposed=False)


def _addmm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    call = _bound(lambda input, mat1, mat2, *, beta=1, alpha=1: None, args, kwargs)
    if call["beta"] != 1 or call["alpha"] != 1:
        raise Unsupported("addmm with beta or alpha")
    return _product(tracer, func, args, kwargs, call["mat1"], call["mat2"], call["input"], transposed=True)


def _matmul(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    call = _bound(lambda input, other: None, args, kwargs)
    if call["other"].dim() != 2 or tracer._is_tracked(call["input"]):
        return _expanded(tracer, func, args, kwargs)
    return _product(tracer, func, args, kwargs, call["input"], call["other"], None, transposed=True)


def _product(
    tracer: Tracer,
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    transposed: bool,
) -> Tensor:
    """input @ weight (or weightᵀ) + bias."""
    if tracer._is_tracked(inputs) or weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        raise Unsupported("a matrix product whose operands are not (rows, matrix, vector)")
    offsets = tracer.offsets(inputs)
    args, kwargs = tracer._plain((args, kwargs))
    output = func(*args, **kwargs)
    known = tracer.flattened(inputs)
    uses: list[tuple[Tensor, Use]] = [(weight, MatrixUse(weight.shape, offsets, known, transposed))]
    if bias is not None:
        uses.append((bias, ElementwiseUse(bias.shape, offsets, partial(_sums, None, bias.shape, offsets))))
    return tracer.record(output, uses)


def _embedding(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    call = _bound(
        lambda input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False: (
            None
        ),
        args,
        kwargs,
    )
    index, weight, padding = call["input"], call["weight"], call["padding_idx"]
    if call["max_norm"] is not None or call["scale_grad_by_freq"] or not tracer._is_tracked(weight):
        raise Unsupported("an embedding that renormalises or rescales")
    offsets = tracer.offsets(index.unsqueeze(-1))
    args, kwargs = tracer._plain((args, kwargs))
    if padding is not None and padding < 0:
        padding += weight.shape[0]
    use = TableUse(weight.shape, offsets, index.reshape(-1), padding)
    return tracer.record(func(*args, **kwargs), [(weight, use)])


def _norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Layer norm and RMS norm: the factor of the weight is the normalised input."""
    call = _bound(lambda input, normalized_shape, weight=None, bias=None, eps=None: None, args, kwargs)
    inputs, shape = call["input"], tuple(call["normalized_shape"])
    if tracer._is_tracked(inputs):
        raise Unsupported("a norm of something derived from parameters")
    offsets = tracer.offsets(inputs)
    args, kwargs = tracer._plain((args, kwargs))
    output = func(*args, **kwargs)
    inputs = inputs.detach()
    eps = {} if call["eps"] is None else {"eps": call["eps"]}
    uses: list[tuple[Tensor, Use]] = []
    if call["weight"] is not None:
        normalised = partial(func, inputs, shape, **eps)
        reduce = partial(_sums, normalised, call["weight"].shape, offsets)
        uses.append((call["weight"], ElementwiseUse(call["weight"].shape, offsets, reduce)))
    if call["bias"] is not None:
        reduce = partial(_sums, None, call["bias"].shape, offsets)
        uses.append((call["bias"], ElementwiseUse(call["bias"].shape, offsets, reduce)))
    return tracer.record(output, uses)


def _elementwise(factor_of: Callable[[Tensor], Callable[[], Tensor] | None], second_sign: int = 1) -> _Rule:
    """Rule of a call `first op second`: the gradient of one operand is the output's times a factor."""

    def rule(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        call = _bound(lambda input, other, alpha=1: None, args, kwargs)
        first, second = call["input"], call["other"]
        if call["alpha"] != 1 or not isinstance(first, Tensor) or not isinstance(second, Tensor):
            raise Unsupported("an elementwise call with alpha")
        tracked, other, sign = (second, first, second_sign) if tracer._is_tracked(second) else (first, second, 1)
        if tracer._is_tracked(other):
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
        offsets = tracer.offsets(other)
        args, kwargs = tracer._plain((args, kwargs))
        output = func(*args, **kwargs)
        if rowwise:
            rows = tuple(range(0, shape[0] + 1, shape[0] // tracer.sequences))
            return tracer.record(output, [(tracked, RowwiseUse(shape, rows))])
        reduce = partial(_sums, factor, shape, offsets, sign=sign)
        return tracer.record(output, [(tracked, ElementwiseUse(shape, offsets, reduce))])

    return rule


def _expanded(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Any other call with something derived: give every sequence its own copy, whose gradients are then its own."""
    sequences = tracer.sequences
    tensors = list(_tensors((args, kwargs)))
    tracked = [tensor for tensor in tensors if tracer._is_tracked(tensor)]
    others = [tensor for tensor in tensors if not tracer._is_tracked(tensor) and tracer._is_of_batch(tensor)]
    copies: dict[int, Tensor] = {}
    name = getattr(func, "__name__", str(func))
    for tensor in tracked:
        if id(tensor) in copies:
            continue
        fits = [other for other in others if other.dim() == tensor.dim() and getattr(other, _MARK, True) is True]
        if id(tensor) in tracer._names or not fits or tensor.dim() < 2:
            raise Unsupported(f"no rule for {name}")
        height = fits[0].shape[0]
        if tensor.shape[0] == 1 and height == sequences:
            leaf = tensor.detach().expand(sequences, *tensor.shape[1:]).clone()
            use: Use = ElementwiseUse(tensor.shape, tuple(range(sequences + 1)), lambda grad: grad.unsqueeze(1))
        elif tensor.shape[0] == height and height % sequences == 0:
            leaf = tensor.detach().clone()
            use = RowwiseUse(tensor.shape, tuple(range(0, height + 1, height // sequences)))
        else:
            raise Unsupported(f"no rule for {name}")
        copies[id(tensor)] = tracer.record(leaf, [(tensor, use)])
    args, kwargs = _map((args, kwargs), lambda tensor: copies.get(id(tensor), tensor))
    return func(*args, **kwargs)


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

_RULES: dict[Any, _Rule] = {
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

# calls that pick rows in an order of their own, calls that put them back in place, and calls that only make sense on
# rows in the same order (a residual connection brings a mixture of experts back in line)
_GATHERS = {torch.Tensor.__getitem__, torch.index_select, torch.Tensor.index_select, torch.masked_select}
_ALIGNING = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.add_, torch.Tensor.__iadd__}
_SCATTERS = {
    torch.index_add,
    torch.Tensor.index_add,
    torch.Tensor.index_add_,
    torch.Tensor.index_copy_,
    torch.Tensor.index_put_,
    torch.Tensor.scatter_add_,
}


# --- tensors in nested arguments -------------------------------------------------------------------------------------


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        items = [_map(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    return value
