"""Modes, gradients, random generators and switches that a call gives back as it found them.

Every public function that touches a model or the random numbers runs inside these context managers, so that
weights, train/eval mode, `requires_grad`, gradients and generators are the caller's again after success, an
exception or a keyboard interrupt.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from gdrop_viz.base.checks import whole
from gdrop_viz.base.locks import GENERATORS, generator_states, model_lock, set_generator_states


@contextmanager
def preserved_modes(model: nn.Module, *, training: bool = False) -> Iterator[nn.Module]:
    """Put `model` into one mode and give every submodule its own mode back afterwards; meanwhile it is locked.

    A plain `model.train(was_training)` would not do: submodules may have been frozen in eval mode one by one.
    """
    with model_lock(model):
        before = [(module, module.training) for module in model.modules()]
        try:
            yield model.train(training)
        finally:
            for module, mode in before:
                module.training = mode


@contextmanager
def preserved_requires_grad(model: nn.Module, *, requires_grad: bool = False) -> Iterator[nn.Module]:
    """Set `requires_grad` of all parameters for a while; flags and `.grad` are restored. The model is locked."""
    with model_lock(model):
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
    """Keep the global generators of torch (CPU and CUDA), numpy and random as they were; seed them inside if asked.

    They belong to the process, so other threads that come here wait until this one is done, or gives way
    (`locks.give_way`).
    """
    GENERATORS.acquire()
    try:
        states = generator_states()
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.manual_seed(seed)
            yield
        finally:
            set_generator_states(states)
    finally:
        GENERATORS.release()


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let torch use `threads` CPU threads for a while; None leaves their number alone."""
    before = torch.get_num_threads()
    if threads is None or whole(threads, "threads") == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def preserved_switches() -> Iterator[Callable[[], None]]:
    """Keep torch's switches (determinism, cuDNN, TF32, default dtype) and the environment as they were.

    Libraries that are set up inside may set them (the Trainer's `full_determinism` and `tf32` do). Call what is given
    when they have been set up: the variables of the environment that differ then are put back at the end. What
    somebody else sets later, in another thread, stays.
    """
    environment = dict(os.environ)
    changed: set[str] = set()
    determinism = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    dtype, cudnn = torch.get_default_dtype(), torch.backends.cudnn
    switches: list[tuple[Any, str]] = [(cudnn, "deterministic"), (cudnn, "benchmark")]
    if hasattr(torch.backends, "fp32_precision"):
        switches.append((torch.backends, "fp32_precision"))
    else:  # torch before 2.9
        switches += [(torch.backends.cuda.matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    before = [(owner, name, getattr(owner, name)) for owner, name in switches]

    def set_up() -> None:
        names = {*environment, *os.environ}
        changed.update(name for name in names if environment.get(name) != os.environ.get(name))

    try:
        yield set_up
    finally:
        torch.use_deterministic_algorithms(determinism[0], warn_only=determinism[1])
        torch.set_default_dtype(dtype)
        for owner, name, value in before:
            setattr(owner, name, value)
        for name in changed:
            if name in environment:
                os.environ[name] = environment[name]
            else:
                os.environ.pop(name, None)
