"""Boolean masks: random keys to draw them by, whole ones, and how many elements they hold."""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

Shape = Sequence[int] | None
Shapes = Mapping[str, tuple[int, ...] | None]


def apportioned(count: int, sizes: Sequence[int]) -> list[int]:
    """Split `count` in proportion to `sizes` so that the parts add up exactly (largest remainders)."""
    total = sum(sizes)
    parts = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(count * sizes[i] % total))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


class RandomKeys(Mapping[str, Tensor]):
    """Independent random integers for each element, drawn when they are looked at and not kept.

    They depend on nothing but the seed and the parameter's name.
    """

    def __init__(self, shapes: Shapes, seed: int) -> None:
        self._shapes, self._seed = shapes, seed

    def __getitem__(self, name: str) -> Tensor:
        generator = named_generator(f"selection {name}", self._seed)
        return torch.empty(known(self._shapes[name]), dtype=torch.int32).random_(generator=generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


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
