"""Layouts of a model's matrices: which axis is the output's, and how attention divides it into heads.

Both are asked of the model at estimation and kept in the result: the axis is seen in a forward pass, the numbers of
heads and their size are those of the attention module that a matrix belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gdrop_viz.base.saved import Saved
from gdrop_viz.models.backbone import unwrapped

# what attention modules and configurations call these numbers
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_SIZES = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")


@dataclass(frozen=True, repr=False)
class Layout(Saved):
    """How a parameter is divided.

    Attributes
    ----------
    inputs_first
        Whether a matrix is kept as (in, out), as GPT-2 keeps its own, so that its output units are columns.
    n_heads, n_key_value_heads, head_size
        Of the attention that it belongs to; None where unknown.
    """

    inputs_first: bool = False
    n_heads: int | None = None
    n_key_value_heads: int | None = None
    head_size: int | None = None


@contextmanager
def inputs_first(model: nn.Module) -> Iterator[set[str]]:
    """Watch a forward pass: the names of the modules whose `weight` is (in, out) are in the set that is given."""
    found: set[str] = set()
    handles = []
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.dim() == 2 and weight.is_floating_point():
            handles.append(module.register_forward_hook(_watching(name.replace("_orig_mod.", ""), found)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layouts_of(model: nn.Module, names: Iterable[str], transposed: set[str]) -> dict[str, Layout]:
    """Return the layout of each of the parameters `names`; `transposed` comes from `inputs_first`."""
    attentions = {
        name.replace("_orig_mod.", ""): module
        for name, module in model.named_modules()
        if _number(module, (*_HEADS, *_SIZES)) is not None
    }
    config: Any = getattr(unwrapped(model), "config", None)
    layouts = {}
    for name in names:
        module = attentions.get(_nearest(name, attentions) or "")
        heads = _number(module, _HEADS) or _number(config, _HEADS)
        shared = _number(module, _KEY_VALUE_HEADS) or _number(config, _KEY_VALUE_HEADS)
        if (groups := _number(module, ("num_key_value_groups",))) is not None and heads is not None:
            shared = heads // groups
        layouts[name] = Layout(name.rpartition(".")[0] in transposed, heads, shared, _number(module, _SIZES))
    return layouts


def _watching(name: str, found: set[str]) -> Any:
    def watch(module: Any, args: tuple[Any, ...], output: Any) -> None:
        inputs, weight = args[0] if args else None, module.weight
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not isinstance(output, Tensor):
            return
        if inputs.shape[-1] != weight.shape[0] or output.shape[-1] != weight.shape[1]:
            return
        if weight.shape[0] == weight.shape[1]:  # a square: which product is it?
            with torch.no_grad():
                row, out = inputs.reshape(-1, inputs.shape[-1])[0], output.reshape(-1, output.shape[-1])[0]
                bias = 0 if getattr(module, "bias", None) is None else module.bias
                if (row @ weight + bias - out).abs().sum() >= (row @ weight.T + bias - out).abs().sum():
                    return
        found.add(name)

    return watch


def _nearest(name: str, attentions: Iterable[str]) -> str | None:
    """The attention module at or below the nearest module around a parameter, within its layer."""
    parts = name.split(".")
    while parts and not parts[-1].isdigit():
        parts.pop()
        around = ".".join(parts)
        inside = next((path for path in attentions if path == around or path.startswith(f"{around}.")), None)
        if parts and inside is not None:
            return inside
    return None


def _number(owner: Any, names: Iterable[str]) -> int | None:
    """The first whole number among the attributes `names`."""
    for name in names:
        try:
            value = getattr(owner, name, None)
        except Exception:  # a configuration may refuse to give one number for layers that differ
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
