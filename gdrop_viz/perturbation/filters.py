"""Filters of a model's weights, and the normalisation of a direction filter by filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import one_of
from gdrop_viz.perturbation.selection import Selection

NORMALIZATIONS = ("filter", "tensor", "none")


def filter_dimensions(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return for each parameter the dimensions that make up one filter: what produces one output unit.

    >>> filter_dimensions(nn.Sequential(nn.Linear(3, 2), nn.Conv1d(2, 4, 3)))
    {'0.weight': (1,), '0.bias': (0,), '1.weight': (1, 2), '1.bias': (0,)}
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    dimensions: dict[str, tuple[int, ...]] = {}
    for owner in model.modules():
        for parameter in owner.parameters(recurse=False):
            # a tied parameter keeps the rule of its first owner, under whose name it goes
            dimensions.setdefault(names[id(parameter)], _filter_of(owner, parameter.ndim))
    return dimensions


def normalized(
    model: nn.Module, vectors: Mapping[str, Tensor], selection: Selection | None, normalize: str
) -> dict[str, Tensor]:
    """Return the selected part of `vectors` with the norm of the selected weights, filter by filter or as told."""
    one_of(normalize, NORMALIZATIONS, "normalize")
    parameters = dict(model.named_parameters())
    dimensions = filter_dimensions(model) if normalize == "filter" else {}
    out = {}
    for name, vector in vectors.items():
        weight = parameters[name].detach()
        if selection is not None and not selection.is_whole(name):
            mask = selection.mask(name).to(vector.device)
            vector, weight = vector * mask, weight * mask
        if normalize != "none":
            along = dimensions.get(name, tuple(range(vector.ndim)))
            vector = vector * (_norm(weight.to(vector.dtype), along) / _norm(vector, along).clamp_min(1e-30))
        out[name] = vector
    return out


def _filter_of(owner: nn.Module, ndim: int) -> tuple[int, ...]:
    if ndim < 2:
        return tuple(range(ndim))
    if type(owner).__name__ == "Conv1D":  # GPT-2's, by name: the weight is (inputs, outputs)
        return (0,)
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return (0, *range(2, ndim))
    if isinstance(owner, (nn.modules.conv._ConvNd, nn.Bilinear)):
        return tuple(range(1, ndim))
    return (ndim - 1,)  # rows; also for stacked matrices such as (expert, output, input)


def _norm(tensor: Tensor, dimensions: Sequence[int]) -> Tensor:
    if not dimensions:  # a scalar parameter
        return tensor.abs()
    return torch.linalg.vector_norm(tensor, dim=tuple(dimensions), keepdim=True)
