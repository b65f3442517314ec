"""Is everything as it was: the model to the last bit, and the process around it?"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


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
    modules = dict(model.named_modules())
    return {
        "weights": {name: tensor.detach().cpu().numpy().tobytes() for name, tensor in model.state_dict().items()},
        "the parameters themselves": {name: id(parameter) for name, parameter in model.named_parameters()},
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in modules.items()},
        "modules": {name: type(module) for name, module in modules.items()},
        "dropout rates": {name: module.p for name, module in modules.items() if isinstance(module, nn.Dropout)},
        "rates in attributes": {
            (name, attribute): value
            for name, module in modules.items()
            for attribute, value in vars(module).items()
            if "drop" in attribute and isinstance(value, float)
        },
        "hooks": {name: [len(getattr(module, kind)) for kind in _HOOKS] for name, module in modules.items()},
        "forward": {name: "forward" in vars(module) for name, module in modules.items()},
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what has changed."""
    return [name for name in before if before[name] != after.get(name)]
