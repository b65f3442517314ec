"""What is a filter, and how is a direction given the norm of the weights that it moves?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gdrop_viz.perturbation.selection import Selection

NORMALIZATIONS = ("filter", "tensor", "none")


def filter_dimensions(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return for each parameter the dimensions that make up one filter: what produces one output unit.

    >>> filter_dimensions(nn.Sequential(nn.Linear(3, 2), nn.Conv1d(2, 4, 3)))
    {'0.weight': (1,), '0.bias': (0,), '1.weight': (1, 2), '1.bias': (0,)}
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    dimensions: dict[str, tuple[int, ...]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            # a tied parameter keeps the rule of its first owner, under whose name it goes
            dimensions.setdefault(names[id(parameter)], _filter_of(module, parameter.ndim))
    return dimensions


def normalized(
    model: nn.Module, vectors: Mapping[str, Tensor], selection: Selection | None, normalize: str
) -> dict[str, Tensor]:
    """Return `vectors` with the norm of the (selected) weights, filter by filter or tensor by tensor."""
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"expected normalize= one of {', '.join(map(repr, NORMALIZATIONS))}, got {normalize!r}")
    if normalize == "none":
        return dict(vectors)
    parameters = dict(model.named_parameters())
    dimensions = filter_dimensions(model) if normalize == "filter" else {}
    selection = selection.on(model) if selection is not None else None
    out = {}
    for name, vector in vectors.items():
        weight = parameters[name].detach().to(vector.dtype)
        if selection is not None and not selection.is_whole(name):
            weight = weight * selection.mask(name).to(weight.device)
        along = dimensions.get(name, tuple(range(vector.ndim)))
        out[name] = vector * (_norm(weight, along) / _norm(vector, along).clamp_min(1e-30))
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
