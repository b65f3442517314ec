"""Pretrained backbone of a model: its modules' and parameters' names, whatever is wrapped around it.

A schedule is made on a masked language model and used in a classifier, perhaps inside `peft`, `torch.compile` or
`DistributedDataParallel`. The names that all of them share are those below the base model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from gdrop_viz.base.checks import instance


@dataclass(frozen=True)
class Backbone:
    """`model`: what runs a forward; `base`: the pretrained body inside it, at the dotted path `prefix`."""

    model: nn.Module
    base: nn.Module
    prefix: str
    adapter: str | None = None

    def relative(self, name: str) -> str | None:
        """Return a full module or parameter name relative to the base model, None if it lies outside (a head)."""
        if not self.prefix:
            return name
        if name == self.prefix:
            return ""
        return name.removeprefix(f"{self.prefix}.") if name.startswith(f"{self.prefix}.") else None

    def is_adapter(self, name: str) -> bool:
        """Whether a module or parameter was added by an adapter method such as LoRA."""
        return self.adapter is not None and any(part.startswith(self.adapter) for part in name.split("."))

    def parameter_aliases(self) -> dict[str, list[str]]:
        """Return, for the first name of each parameter of `model`, all its names (several if it is tied)."""
        first: dict[int, str] = {}
        aliases: dict[str, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            aliases.setdefault(first.setdefault(id(parameter), name), []).append(name)
        return aliases


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model under `torch.compile`, data-parallel and `peft` wrappers; it shares all modules with them.

    >>> compiled_like = nn.parallel.DataParallel(inner := nn.Linear(2, 2))
    >>> unwrapped(compiled_like) is inner
    True
    """
    instance(model, nn.Module, "model", "load_pretrained(name).model")
    while (inner := _wrapped(model)) is not None:
        model = inner
    return model


def undistributed(model: nn.Module) -> nn.Module:
    """Return the model under `torch.compile` and data-parallel wrappers; its adapters stay."""
    while not _has_adapter(model) and (inner := _wrapped(model)) is not None:
        model = inner
    return model


def backbone_of(model: nn.Module) -> Backbone:
    """Find the base model of a `transformers` model (of any other module: itself), through all wrappers.

    >>> import torch
    >>> head = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    >>> backbone_of(head).prefix
    ''
    """
    inner = unwrapped(model)
    base = getattr(inner, "base_model", inner)
    if not isinstance(base, nn.Module):
        base = inner
    prefix = next((name for name, module in inner.named_modules() if module is base), None)
    if prefix is None:
        base, prefix = inner, ""
    return Backbone(inner, base, prefix, _adapter_prefix(model))


def plain_name(name: str) -> str:
    """Return a parameter's name without what adapters put inside it: `query.base_layer.weight` -> `query.weight`."""
    return name.replace(".base_layer.", ".")


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The model that this one wraps, None if it wraps none."""
    inner: Any = getattr(model, "_orig_mod", None)  # torch.compile
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        inner = model.module
    elif _has_adapter(model):
        inner = cast(Any, model).get_base_model()
    return inner if isinstance(inner, nn.Module) else None


def _has_adapter(model: nn.Module) -> bool:
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def _adapter_prefix(model: nn.Module) -> str | None:
    layer: nn.Module | None = model
    while layer is not None:
        if _has_adapter(layer):
            # the tuner names what it adds by one prefix ("lora_", "ia3_", ...)
            return getattr(getattr(layer, "base_model", None), "prefix", None) or "lora_"
        layer = _wrapped(layer)
    return None
