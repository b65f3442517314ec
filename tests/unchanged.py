"""The state that a public call must leave alone: a model to the last bit, and the process around it."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """Assert that what is done inside leaves `models` and the process as they were; name what did not come back.

    An exception that is expected is caught inside: `with unchanged(model), pytest.raises(ValueError): ...`.
    """
    before = snapshot(*models)
    yield
    changed = differences(before, snapshot(*models))
    assert not changed, f"changed: {', '.join(changed)}"


def snapshot(*models: nn.Module) -> dict[str, Any]:
    """Everything that a public call must leave alone, in a form that can be compared with ==."""
    state: dict[str, Any] = {
        "python's generator": random.getstate(),
        "numpy's generator": [str(part) for part in np.random.get_state()],
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "default dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "gradients on": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cuDNN": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "products of matrices": _precision(),
        "fused encoder layers": torch.backends.mha.get_fastpath_enabled(),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "Ctrl-C": signal.getsignal(signal.SIGINT),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "warning filters": list(warnings.filters),
        "log levels": {name: logging.getLogger(name).level for name in ("transformers", "datasets", "gdrop_viz")},
        "threads of ours": sorted(t.name for t in threading.enumerate() if t.name.startswith("gdrop_viz")),
    }
    for number, model in enumerate(models):
        state |= {f"model {number}: {what}": value for what, value in _of(model).items()}
    return state


def _precision() -> Any:
    if hasattr(torch.backends, "fp32_precision"):  # torch 2.9 refuses to tell by its old names
        return torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32


def _of(model: nn.Module) -> dict[str, Any]:
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    buffers, config = dict(model.named_buffers()), getattr(model, "config", None)
    return {
        "weights": {name: _bits(parameter) for name, parameter in parameters.items()},
        "the parameters themselves": {name: _Same(parameter) for name, parameter in parameters.items()},
        "gradients": {name: _bits(parameter.grad) for name, parameter in parameters.items()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in parameters.items()},
        "buffers": {name: _bits(buffer) for name, buffer in buffers.items()},
        "the buffers themselves": {name: _Same(buffer) for name, buffer in buffers.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "modules": {name: _Same(module) for name, module in modules.items()},
        "dropout rates": {name: module.p for name, module in modules.items() if isinstance(module, nn.Dropout)},
        "plain attributes": {
            (name, attribute): value
            for name, module in modules.items()
            for attribute, value in vars(module).items()
            if isinstance(value, (int, float, str)) and attribute not in ("p", "training")
        },
        "configuration": (_Same(config), config.to_dict() if hasattr(config, "to_dict") else None),
        "hooks": {name: [len(getattr(module, kind)) for kind in _HOOKS] for name, module in modules.items()},
        "forward": {name: vars(module).get("forward") for name, module in modules.items()},
    }


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal to another of the same thing alone."""

    thing: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    __hash__ = object.__hash__


def _bits(tensor: Tensor | None) -> tuple[str, tuple[int, ...], bytes] | None:
    if tensor is None:
        return None
    plain = torch.empty(0) if tensor.is_meta else tensor.detach().cpu().contiguous()
    return str(tensor.dtype), tuple(tensor.shape), plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what has changed."""
    return [name for name in before if before[name] != after.get(name)]
