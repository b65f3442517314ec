"""Boolean masks: of exactly the k largest elements, at random, whole; and how many elements they hold."""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Shape = Sequence[int] | None
Shapes = Mapping[str, tuple[int, ...] | None]


def largest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of exactly the `count` largest of all elements; among equals the earlier parameter and position win."""
    scores = {name: score.detach().cpu() for name, score in scores.items()}
    # numpy knows no bfloat16
    scores = {n: s.float() if s.dtype in (torch.bfloat16, torch.float16) else s for n, s in scores.items()}
    total = sum(score.numel() for score in scores.values())
    if count == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    flat = torch.cat([score.reshape(-1) for score in scores.values()]).numpy()
    if flat.base is not None and len(scores) == 1:
        flat = flat.copy()  # partition works in place
    flat.partition(total - count)
    if not np.isfinite(flat[total - count :]).all():  # NaN counts as the largest
        raise ValueError("expected finite scores, got NaN or infinity; estimate the Fisher information again")
    threshold = flat[total - count].item()
    masks = {name: score > threshold for name, score in scores.items()}
    missing = count - sum(count_of(mask) for mask in masks.values())
    for name, score in scores.items():
        if not missing:
            break
        ties = (score == threshold).reshape(-1).nonzero().squeeze(1)[:missing]
        masks[name].view(-1)[ties] = True
        missing -= len(ties)
    return masks


def apportioned(count: int, sizes: Sequence[int]) -> list[int]:
    """Split `count` in proportion to `sizes` so that the parts add up exactly (largest remainders)."""
    total = sum(sizes)
    parts = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(count * sizes[i] % total))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


def random_keys(name: str, shape: Shape, seed: int) -> Tensor:
    """Independent random integers, one per element, that depend on nothing but the seed and the parameter's name."""
    return torch.empty(known(shape), dtype=torch.int32).random_(generator=named_generator(f"selection {name}", seed))


def named_generator(name: str, seed: int) -> torch.Generator:
    """A CPU generator of its own for each (seed, name), so that no draw depends on the order of the others."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"expected seed as a whole number, got {seed!r}")
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def whole_mask(shape: Shape) -> Tensor:
    """A mask of everything: an expanded scalar, which takes no memory; () where the shape is not known."""
    return torch.ones((), dtype=torch.bool).expand(tuple(shape or ()))


def count_of(mask: Tensor) -> int:
    """Return how many elements a mask holds; at once for `whole_mask`."""
    if mask.numel() and not any(mask.stride()):  # an expanded scalar
        return mask.numel() if bool(mask.reshape(-1)[0]) else 0
    return int(mask.count_nonzero())


def known(shape: Shape) -> tuple[int, ...]:
    """Return the shape of a parameter; raise ValueError where scores from elsewhere came without it."""
    if shape is None:
        raise ValueError(
            "expected parameters of known shape, got scores from elsewhere; call selection.on(model) first"
        )
    return tuple(shape)


def size_of(shape: Shape) -> int:
    """Return how many elements a parameter of that (known) shape has."""
    return math.prod(known(shape))
