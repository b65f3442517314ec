"""How does a public call leave the process as it found it?

Every public function that touches a model or the random numbers runs inside these context managers, so that
weights, train/eval mode, `requires_grad`, gradients and generators are the caller's again after success, an
exception or a keyboard interrupt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserved_modes(model: nn.Module, *, training: bool = False) -> Iterator[nn.Module]:
    """Put `model` into one mode and give every submodule its own mode back afterwards.

    A plain `model.train(was_training)` would not do: submodules may have been frozen in eval mode one by one.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield model.train(training)
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def preserved_requires_grad(model: nn.Module, *, requires_grad: bool = False) -> Iterator[nn.Module]:
    """Set `requires_grad` of all parameters for a while; flags and `.grad` are restored afterwards."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(requires_grad)
        yield model
    finally:
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Keep the global generators of torch (CPU and CUDA), numpy and random as they were; seed them inside if asked."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
