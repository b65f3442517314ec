"""At which rate does a module drop that draws its mask itself instead of calling a dropout function of torch?

Such modules (`StableDropout`, `DropPath`, hand-written Gaussian dropout) show no probability to an observer, so it is
estimated from what they do to many ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_ELEMENTS = 2**20
_MAX_ROWS = 2**16


def is_elementwise(module: nn.Module, inputs: tuple, output: Any) -> bool:
    """Whether a module could be a dropout: no parameters, no parts, one tensor in, one of the same shape out."""
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None or not inputs:
        return False
    x = inputs[0]
    both = isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape == output.shape
    return both and x.dim() > 0 and x.is_floating_point()


def estimated_rate(module: nn.Module, example: Tensor) -> tuple[float, float]:
    """Return the dropout rate of `module` and its standard error, from its output on ones shaped like `example`.

    Zeros among the outputs: their share `p`. None, but a varying factor: noise of variance `v`, which is that of
    dropout with `p = v / (1 + v)`. Masks may be shared within a row (`DropPath`), so rows are what is counted.

    >>> class Own(nn.Module):
    ...     def forward(self, x):
    ...         return x * torch.bernoulli(torch.full_like(x, 0.75)) / 0.75
    >>> rate, error = estimated_rate(Own(), torch.ones(1, 64))
    >>> abs(rate - 0.25) < 5 * error < 0.02
    True
    """
    rows = min(_MAX_ROWS, max(1, _ELEMENTS // example.shape[-1])) if example.dim() > 1 else _ELEMENTS
    shape = (rows, *[1] * (example.dim() - 2), *example.shape[1:][-1:])
    try:
        factor = module.forward(torch.ones(shape, dtype=example.dtype, device=example.device)).float()
    except (RuntimeError, ValueError, TypeError, IndexError):  # it insists on the shape of its input
        factor = module.forward(torch.ones_like(example)).float()
    per_row = factor.reshape(len(factor), -1)
    if bool((factor == 0).any()):
        dropped = (per_row == 0).float().mean(dim=1)
        return dropped.mean().item(), _standard_error(dropped)
    squares = ((per_row - 1) ** 2).mean(dim=1)
    variance = squares.mean().item()
    # the derivative of v / (1 + v) is 1 / (1 + v)^2
    return variance / (1 + variance), _standard_error(squares) / (1 + variance) ** 2


def _standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 1.0
