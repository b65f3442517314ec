"""Row order of the batch's tensors: which rows along the first axis belong to which sequence.

Every tensor that is computed from the batch carries its order as an attribute; a tensor without one is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from gdrop_viz.models.position_wise import OFFSETS as ORDER

Offsets = tuple[int, ...]


class RowOrder(Enum):
    """Orders that need no list of offsets."""

    BY_SEQUENCE = "the first axis is the sequences', times any number of rows each"
    UNKNOWN = "rows were picked by the batch's values: nothing is known of their sequences"


# offsets: rows gathered from the sequences, those of sequence n are offsets[n] .. offsets[n + 1] - 1
# (models.position_wise puts them on what it gathers)
Order = RowOrder | Offsets

# calls that pick rows in an order of their own, calls that put them back in place, and calls that only make sense on
# rows in the same order (a residual connection brings a mixture of experts back in line)
_GATHERS = {torch.Tensor.__getitem__, torch.index_select, torch.Tensor.index_select, torch.masked_select}
_ALIGNING = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.add_, torch.Tensor.__iadd__}
# calls that take no more than type and device from a tensor
CONSTANTS = {
    torch.Tensor.new_zeros,
    torch.Tensor.new_ones,
    torch.Tensor.new_full,
    torch.Tensor.new_empty,
    torch.Tensor.new_tensor,
}
_SCATTERS = {
    torch.index_add,
    torch.Tensor.index_add,
    torch.Tensor.index_add_,
    torch.Tensor.index_copy_,
    torch.Tensor.index_put_,
    torch.Tensor.scatter_add_,
}


def order_of(tensor: Tensor) -> Order | None:
    """Return the row order of a tensor of the batch, None for a constant."""
    return getattr(tensor, ORDER, None)


def set_order(tensor: Tensor, order: Order) -> None:
    """Say in which order the rows of a tensor of the batch are."""
    setattr(tensor, ORDER, order)


def order_after(func: Callable[..., Any], inputs: list[Tensor], orders: list[Order]) -> Order:
    """Return the row order of what `func` computes from `inputs`; `orders` are those of the batch's tensors in them."""
    if func in _SCATTERS or (func in _ALIGNING and RowOrder.BY_SEQUENCE in orders):
        return RowOrder.BY_SEQUENCE
    if RowOrder.UNKNOWN in orders or (func in _GATHERS and _picked_by_values(inputs[1:])):
        return RowOrder.UNKNOWN
    return next((order for order in orders if isinstance(order, tuple)), RowOrder.BY_SEQUENCE)


def _picked_by_values(indices: list[Tensor]) -> bool:
    return any(order_of(index) is not None and not index.is_floating_point() for index in indices)
