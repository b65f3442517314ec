"""Devices of a model's weights, and whether the weights are in memory at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gdrop_viz.models.backbone import unwrapped


def device_of(model: nn.Module) -> torch.device:
    """Return the device that the model's inputs belong on: its first parameter's; the CPU where it has none.

    A model spread over devices by accelerate moves them on from there.
    """
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def on_device_of(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the batch with its tensors on the model's device; those that are there already are the same objects.

    >>> batch = {"input": torch.ones(2)}
    >>> on_device_of(nn.Linear(2, 1), batch)["input"] is batch["input"]
    True
    """
    device = device_of(model)
    return {
        name: value.to(device) if isinstance(value, Tensor) and value.device != device else value
        for name, value in batch.items()
    }


def check_weights_present(model: nn.Module) -> None:
    """Raise ValueError if weights are shapes only (offloaded, meta device), or too coarse for gradients (float8).

    >>> check_weights_present(nn.Linear(2, 1, device="meta"))
    Traceback (most recent call last):
    ValueError: the weight 'weight' is not in memory (offloaded to CPU or disk by accelerate?); ...
    """
    name = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if name is not None:
        raise ValueError(
            f"the weight {name!r} is not in memory (offloaded to CPU or disk by accelerate?); spread the model over "
            "more GPUs by device_map='auto', take dtype=torch.bfloat16, or load it on the CPU"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.element_size() < 2:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"expected weights of at least 16 bits, got {name!r} of type {kind}, for which there are no gradients; "
                "load the model with dtype=torch.bfloat16"
            )


def check_attention(model: nn.Module) -> None:
    """Raise ValueError if the model's attention has no gradients on its device (flex attention on the CPU)."""
    config: Any = getattr(unwrapped(model), "config", None)
    if getattr(config, "_attn_implementation", None) == "flex_attention" and device_of(model).type == "cpu":
        raise ValueError(
            "expected attention with gradients on the CPU, got 'flex_attention'; "
            "call model.set_attn_implementation('sdpa')"
        )
