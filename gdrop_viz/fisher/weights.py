"""Weights that can have scores: their names, which are left out and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from gdrop_viz.base.checks import few
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.devices import check_weights_present

_DIFFERENTIABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by their names in the model itself, without what `torch.compile` and DDP put into them.

    >>> list(weights_of(nn.DataParallel(nn.Linear(2, 2, bias=False))))
    ['weight']
    """
    return {name.replace("_orig_mod.", ""): weight for name, weight in undistributed(model).named_parameters()}


def has_gradient(weight: nn.Parameter) -> bool:
    """Whether a weight's type can have a gradient: integers and 8-bit floats cannot."""
    return weight.dtype in _DIFFERENTIABLE


def chosen_weights(model: nn.Module, names: Iterable[str] | None) -> tuple[dict[str, nn.Parameter], list[str]]:
    """Return the weights to score (those of `names`, all by default), and the names of those that cannot be.

    Raises ValueError for a model without weights, with weights that are not in memory or cannot be differentiated, and
    for unknown names.
    """
    check_weights_present(model)
    known = weights_of(model)
    if not known:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is no Fisher information")
    asked = list(dict.fromkeys(known if names is None else names))
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise ValueError(
            f"expected parameters as names of the model's parameters ({few(list(known))}), got {few(unknown) or 'none'}"
        )
    chosen = {name: known[name] for name in asked if has_gradient(known[name])}
    without = [name for name in asked if name not in chosen]
    if without and (names is not None or not chosen):
        raise ValueError(f"expected weights that have gradients, got {known[without[0]].dtype} for {few(without)}")
    if any(weight.is_inference() for weight in chosen.values()):
        raise ValueError("expected weights that have gradients, got some made in torch.inference_mode; load outside it")
    if without:
        warnings.warn(
            f"{len(without)} of {len(known)} parameter tensors are integers or 8-bit floats, which have no gradients: "
            f"they are left out ({few(without)}).",
            RuntimeWarning,
            stacklevel=3,
        )
    return chosen, without
