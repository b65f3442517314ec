"""Are weights and losses numbers? NaN and infinity are refused where they come in, and their place is named."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor in memory that holds NaN or infinity, if one does."""
    return next((name for name, tensor in tensors if not (tensor.is_meta or bool(torch.isfinite(tensor).all()))), None)


def check_finite_weights(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ValueError, with the name of the first one, if a weight in memory is NaN or infinite.

    >>> check_finite_weights([("a.weight", torch.tensor([1.0, torch.inf]))])
    Traceback (most recent call last):
    ValueError: The parameter 'a.weight' has NaN or infinite values; load sound weights first.
    """
    if (bad := not_finite(weights)) is not None:
        raise ValueError(f"The parameter {bad!r} has NaN or infinite values; load sound weights first.")


def check_finite_losses(losses: Tensor, where: str, *, first: int = 0) -> None:
    """Raise ValueError if a loss of `losses` (N,) is not finite; its sequence is counted from `first`, in `where`.

    >>> check_finite_losses(torch.tensor([0.5, torch.nan]), "batch 3")
    Traceback (most recent call last):
    ValueError: Expected finite losses, got nan for sequence 1 of batch 3; look for ...
    """
    losses = losses.detach()
    if not bool(torch.isfinite(losses).all()):
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        raise ValueError(
            f"Expected finite losses, got {float(losses[bad])} for sequence {first + bad} of {where}; "
            "look for half precision overflowing, or for a division by 0 in loss=."
        )
