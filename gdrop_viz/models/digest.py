"""Digest of a model: weights, buffers, configuration and the code of its modules, all that its losses depend on."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from gdrop_viz.base.digest import Undigestible, digest
from gdrop_viz.models.backbone import unwrapped

_OF_MODULE = frozenset(vars(nn.Module()))  # what torch keeps in every module: hooks, modes, registries
# what from_pretrained and accelerate leave in a model: where it came from and lies
_OF_LOADING = frozenset({"name_or_path", "_use_kernels", "_weight_conversions", "hf_device_map", "_hf_hook"})
_ORIGIN = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


def model_digest(model: nn.Module) -> str:
    """Return 64 hex digits that change whenever the losses of `model` in eval mode could.

    Every parameter and buffer, the configuration (without where it came from), the class of each module with its
    settings, and the code of classes that no installed package defines. Dropout rates of dropout modules do not count.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    >>> before = model_digest(model)
    >>> model[1] = nn.ReLU()
    >>> model_digest(model) == before
    False
    """
    model = unwrapped(model)
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    modules = [(name, type(module), _settings(module)) for name, module in model.named_modules()]
    return digest(weights, config_of(model), modules)


def config_of(model: nn.Module) -> dict[str, str]:
    """The configuration as text, without where the model came from: equal models have equal ones."""
    config: Any = getattr(model, "config", None)
    content: dict[str, Any] = config.to_dict() if hasattr(config, "to_dict") else {}
    return {key: repr(value) for key, value in content.items() if key not in _ORIGIN}


def _settings(module: nn.Module) -> dict[str, str]:
    found = {}
    for name, value in vars(module).items():
        if name in _OF_MODULE | _OF_LOADING or name == "config" or isinstance(module, _DropoutNd):
            continue
        try:
            found[name] = digest(value)
        except (Undigestible, RecursionError):
            found[name] = type(value).__qualname__
    return found
