"""What is a module or parameter called relative to the pretrained backbone, whatever is wrapped around it?

A schedule is made on a masked language model and used in a classifier, perhaps inside `peft`, `torch.compile` or
`DistributedDataParallel`. The names that all of them share are those below the base model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


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
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass lm.model rather than lm")
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
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


def _adapter_prefix(model: nn.Module) -> str | None:
    while isinstance(model, nn.Module):
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            # the tuner names what it adds by one prefix ("lora_", "ia3_", ...)
            return getattr(getattr(model, "base_model", None), "prefix", None) or "lora_"
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if inner is model:
            break
        model = inner
    return None
