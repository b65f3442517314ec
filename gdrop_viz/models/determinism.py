"""Determinism of a model in eval mode: which module, if any, gives other values each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gdrop_viz.base.nested import tensors_in

_ROUNDING = 1e-3  # kernels that add in another order each time differ by less, a drawn mask by more


def check_determinism(model: nn.Module, compute: Callable[[], Tensor], what: str) -> None:
    """Raise ValueError, naming the module, if what a model in eval mode computes differs between two runs."""
    first, second = compute(), compute()
    if torch.equal(first, second) or not bool(torch.isfinite(first).all()):
        return
    culprit = _first_that_differs(model, compute)
    difference = float((first - second).abs().max())
    if culprit is None and difference <= _ROUNDING * float(first.abs().max()):
        return
    name = f"the module {culprit!r}" if culprit else type(model).__name__
    raise ValueError(
        f"expected the same {what} from two runs in eval mode, got a difference of {difference:.2g}: {name} gives "
        "other values each time; switch its noise off in eval mode, as F.dropout(..., training=self.training) does"
    )


def _first_that_differs(model: nn.Module, compute: Callable[[], Tensor]) -> str | None:
    """The first module whose outputs differ between two runs although its inputs do not."""
    runs = [_recorded(model, compute), _recorded(model, compute)]
    for (name, inputs, outputs), (again, same_inputs, other_outputs) in zip(*runs, strict=False):
        if name != again:
            return name
        pairs = list(zip(outputs, other_outputs, strict=False))
        if all(torch.equal(a, b) for a, b in zip(inputs, same_inputs, strict=False)) and any(
            float((a.float() - b.float()).abs().max()) > _ROUNDING * float(a.float().abs().max())
            for a, b in pairs
            if a.shape == b.shape and a.numel()
        ):
            return name or type(model).__name__
    return None


def _recorded(model: nn.Module, compute: Callable[[], Tensor]) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """Name, inputs and outputs of each call of a module, in the order in which the calls end."""
    calls: list[tuple[str, list[Tensor], list[Tensor]]] = []
    names = {module: name for name, module in model.named_modules()}

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        values = list(output.values()) if isinstance(output, dict) else output
        inputs = [tensor.detach().clone() for tensor in tensors_in((args, kwargs))]
        calls.append((names[module], inputs, [tensor.detach().clone() for tensor in tensors_in(values)]))

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in names]
    try:
        compute()
    finally:
        for handle in handles:
            handle.remove()
    return calls
