"""Weights that can have scores: their names, which are left out and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn

from gdrop_viz.base.checks import few
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.differentiation import check_weights, differentiable


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by their names in the model itself, without what `torch.compile` and DDP put into them.

    A parameter without elements has nothing to score.

    >>> list(weights_of(nn.DataParallel(nn.Linear(2, 2, bias=False))))
    ['weight']
    """
    named = undistributed(model).named_parameters()
    return {name.replace("_orig_mod.", ""): weight for name, weight in named if weight.numel()}


def chosen_weights(model: nn.Module, names: Iterable[str] | None) -> tuple[dict[str, nn.Parameter], list[str]]:
    """Return the weights to score (those of `names`, all by default), and the names of those that cannot be.

    Raises ValueError for a model without weights, for weights that are not in memory, not finite or cannot be
    differentiated, and for unknown names.
    """
    check_weights(model)
    known = weights_of(model)
    if not known:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is no Fisher information")
    asked = list(dict.fromkeys(known if names is None else names))
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise ValueError(
            f"expected parameters as names of the model's parameters ({few(list(known))}), got {few(unknown) or 'none'}"
        )
    chosen = {name: known[name] for name in asked if differentiable(known[name])}
    without = [name for name in asked if name not in chosen]
    if without and (names is not None or not chosen):
        raise ValueError(f"expected weights that have gradients, got {known[without[0]].dtype} for {few(without)}")
    if without:
        warnings.warn(
            f"{len(without)} of {len(known)} parameter tensors are integers, which have no gradients: "
            f"they are left out ({few(without)}).",
            RuntimeWarning,
            stacklevel=3,
        )
    return chosen, without
