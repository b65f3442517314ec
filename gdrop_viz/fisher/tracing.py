"""Tracer of parameter uses: one torch function mode sees every call of a forward pass, whatever the model's classes.

Three notions suffice:
- a tensor is *of the batch* if it was computed from the batch's tensors; its rows, along the first axis, belong to
  sequences as its row order says (row_order.py);
- a tensor is *derived* if it was computed from parameters and constants alone (`1 + weight`, `weight.T`, a table of
  relative position biases): autograd keeps the way back to its parameters;
- a *use* is a call in which a parameter, or something derived, meets a tensor of the batch. Each kind of call that has
  a rule (rules.py) becomes a `Use` (per_sample.py), and a hook on the call's output brings its gradient.

Parameters that meet the batch in a call without a rule are `unsupported`: the caller has the loop for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gdrop_viz.base.nested import mapped, tensors_in
from gdrop_viz.fisher.per_sample import PulledBackUse, RowwiseUse, TableUse, Use
from gdrop_viz.fisher.row_order import CONSTANTS, ORDER, RowOrder, order_after, order_of, set_order
from gdrop_viz.fisher.rules import RULES, Unsupported, Uses, copies, table_of


@dataclass(frozen=True)
class _Derived:
    """`graph` has the autograd way back to `leaves`; of a look-up in a parameter, index and padding are kept too."""

    graph: Tensor
    leaves: dict[str, Tensor]
    look_up: tuple[Tensor, int | None] | None = None


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
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self._leaves: dict[str, Tensor] = {}
        self._derived: dict[int, tuple[Tensor, _Derived]] = {}
        self._waiting: dict[str, int] = {}
        self._arrivals: set[int] = set()
        self._last_input: tuple[Tensor, Tensor] | None = None
        self._is_last = True

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch as the model gets it: new tensor objects (the caller's are not touched), their rows in order."""
        own = {name: value.detach() if isinstance(value, Tensor) else value for name, value in batch.items()}
        for value in own.values():
            if isinstance(value, Tensor):
                set_order(value, RowOrder.BY_SEQUENCE)
        return own

    def backward(self, losses: Tensor, *, last: bool = True) -> None:
        """Run backward from Σ_n L_n, calling `ready` for every supported parameter that was used."""
        self._last_input, self._is_last = None, last
        self._waiting = {name: len(uses) for name, uses in self.uses.items() if uses and name not in self.unsupported}
        self._arrivals.clear()
        if losses.requires_grad:
            losses.sum().backward(retain_graph=not last)
        # a use whose output has no way to the loss never gets a gradient: its share is zero
        for name in list(self._waiting):
            arrived = [use for use in self.uses[name] if id(use) in self._arrivals]
            del self._waiting[name]
            if arrived:
                self._complete(name, arrived)

    def kinds(self) -> dict[str, frozenset[str]]:
        """In which ways each parameter was used."""
        return {name: frozenset(map(_kind, uses)) for name, uses in self.uses.items()}

    # --- the mode ----------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        tracked = [tensor for tensor in tensors if self.is_tracked(tensor)]
        if not tracked:
            return self._ordered(func, tensors, func(*args, **kwargs))
        others = [tensor for tensor in tensors if not self.is_tracked(tensor) and self.is_of_batch(tensor)]
        if not torch.is_grad_enabled():  # what the model computes without gradients has none
            return self._ordered(func, others, func(*args, **kwargs))
        if not others:
            return self._derive(func, args, kwargs, tracked)
        return self._ordered(func, others, self._use(func, args, kwargs, tracked))

    def _ordered(self, func: Callable[..., Any], inputs: list[Tensor], output: Any) -> Any:
        """Give `output` its row order."""
        orders = [order for tensor in inputs if (order := getattr(tensor, ORDER, None)) is not None]
        if not orders or func in CONSTANTS:
            return output
        if func is torch.Tensor.__setitem__:
            set_order(inputs[0], RowOrder.BY_SEQUENCE)
        order = order_after(func, inputs, orders)
        for tensor in tensors_in(output):
            if order is not RowOrder.BY_SEQUENCE or order_of(tensor) is None:
                set_order(tensor, order)
        return output

    def _use(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]
    ) -> Any:
        """Run a call in which parameters meet the batch, and record their uses."""
        rule = RULES.get(func)
        try:
            uses = rule(self, func, args, kwargs) if rule is not None else None
            own = copies(self, func, args, kwargs) if uses is None else {}
        except Unsupported as reason:
            for tensor in tracked:
                for name in self._sources(tensor):
                    self.unsupported.setdefault(name, str(reason))
            uses, own = [], {}
        if own:
            given = {
                id(tensor): self._recorded(own[id(tensor)][0], [(tensor, own[id(tensor)][1])]) for tensor in tracked
            }
            args, kwargs = mapped((args, kwargs), lambda tensor: given.get(id(tensor), tensor))
            return func(*args, **kwargs)
        args, kwargs = self.plain((args, kwargs))
        output = func(*args, **kwargs)
        return self._recorded(output, uses) if uses else output

    # --- what is what ------------------------------------------------------------------------------------------------

    def is_tracked(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or derived from parameters alone."""
        return id(tensor) in self.names or id(tensor) in self._derived

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether it is one of the parameters themselves."""
        return id(tensor) in self.names

    def is_of_batch(self, tensor: Tensor) -> bool:
        """Whether it was computed from the batch."""
        if tensor.requires_grad:
            return True
        order = order_of(tensor)
        if order is None or tensor.dim() == 0:
            return False
        # what merely was made from the batch's shape (arange on its device) has no row per sequence: a constant
        return order is not RowOrder.BY_SEQUENCE or tensor.shape[0] % self.sequences == 0

    def offsets(self, tensor: Tensor, shape: torch.Size) -> tuple[int, ...]:
        """Rows of each sequence in `tensor`, of whose axes those of `shape` are flattened; Unsupported if unknown."""
        order = order_of(tensor)
        if isinstance(order, tuple):
            return order
        if order is RowOrder.UNKNOWN or tensor.dim() == 0 or tensor.shape[0] % self.sequences:
            raise Unsupported(f"its input has rows in an unknown order, shape {tuple(tensor.shape)}")
        length = shape.numel() // self.sequences
        return tuple(range(0, length * self.sequences + 1, length)) if length else (0,) * (self.sequences + 1)

    def flattened(self, inputs: Tensor) -> Tensor:
        """`inputs` as rows; the same object for successive calls on one tensor (query, key, value share theirs)."""
        if self._last_input is None or self._last_input[0] is not inputs:
            self._last_input = inputs, inputs.detach().reshape(-1, inputs.shape[-1])
        return self._last_input[1]

    def plain(self, value: Any) -> Any:
        """Arguments with derived tensors cut off from their parameters: the ordinary forward."""
        return mapped(value, lambda tensor: tensor.detach() if id(tensor) in self._derived else tensor)

    def _sources(self, tensor: Tensor) -> list[str]:
        name = self.names.get(id(tensor))
        return [name] if name is not None else list(self._derived[id(tensor)][1].leaves)

    # --- recording ---------------------------------------------------------------------------------------------------

    def _derive(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tracked: list[Tensor]
    ) -> Any:
        """Compute something from parameters and constants alone, keeping the way back."""
        look_up = None
        if func is F.embedding and self.is_parameter(tracked[0]):
            with suppress(Unsupported):
                index, _, padding = table_of(args, kwargs)
                look_up = index, padding
        leaves: dict[str, Tensor] = {}
        for tensor in tracked:
            if (name := self.names.get(id(tensor))) is not None:
                if name not in self._leaves:
                    self._leaves[name] = tensor.detach().requires_grad_(tensor.is_floating_point())
                leaves[name] = self._leaves[name]
            else:
                leaves.update(self._derived[id(tensor)][1].leaves)

        def graph_of(tensor: Tensor) -> Tensor:
            if (name := self.names.get(id(tensor))) is not None:
                return self._leaves[name]
            return self._derived[id(tensor)][1].graph if id(tensor) in self._derived else tensor

        with torch.enable_grad():
            args, kwargs = mapped((args, kwargs), graph_of)
            output = func(*args, **kwargs)
        for tensor in tensors_in(output):
            if tensor.requires_grad:
                self._derived[id(tensor)] = tensor, _Derived(tensor, leaves, look_up)
        return output

    def _recorded(self, output: Tensor, uses: Uses) -> Tensor:
        """Register the uses of one call; returns the output to hand on to the model.

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
            if not self.is_tracked(tensor):
                continue
            use, named = self._uses_of_sources(tensor, use)
            for name, one in named.items():
                self.uses[name].append(one)
            owned.append((use, named))
        hooked.register_hook(partial(self._arrived, owned))
        return output

    def _uses_of_sources(self, tensor: Tensor, use: Use) -> tuple[Use, dict[str, Use]]:
        """The use of a tensor, and what it is for each parameter that the tensor was computed from."""
        name = self.names.get(id(tensor))
        if name is not None:
            return use, {name: use}
        derived = self._derived[id(tensor)][1]
        if derived.look_up is not None and isinstance(use, RowwiseUse):
            # looked up by a constant index that has a row per sequence (positions, token types): a table like any other
            (name, leaf), (index, padding) = next(iter(derived.leaves.items())), derived.look_up
            each = index[0].numel()
            use = TableUse(leaf.shape, tuple(each * row for row in use.offsets), index.reshape(-1), padding)
            return use, {name: use}
        return use, {
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
                    self._complete(name, self.uses[name])

    def _complete(self, name: str, uses: list[Use]) -> None:
        self.ready(name, uses)
        if self._is_last:
            # the graph outlives its backward pass, and its hooks their uses: let the activations go now
            for use in uses:
                use.release()


def _kind(use: Use) -> str:
    inner = f" of {_kind(use.inner)}" if isinstance(use, PulledBackUse) else ""
    return f"{type(use).__name__}{inner}"


def _pull_back(graph: Tensor, leaf: Tensor, gradient: Tensor) -> Tensor:
    (pulled,) = torch.autograd.grad(graph, leaf, gradient.to(graph.dtype), retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if pulled is None else pulled
