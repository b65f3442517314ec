"""Direction: a vector in the space of a model's parameters, with norm, angles and orthogonalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gdrop_viz.base.checks import not_finite, number
from gdrop_viz.base.saved import Saved

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Direction(Saved):
    """A vector in the space of a model's parameters.

    Attributes
    ----------
    vectors
        Parameter name -> Tensor of the parameter's shape; a parameter that is not named does not move.
    label
        What it is, in words, for the axes of a picture.
    seed
        The seed of a random direction, else None.
    normalize
        How it was normalised: "filter", "tensor" or "none" (see `random_direction`).
    selection
        The label of the selection that it is restricted to; "" if it may move everything.

    >>> from gdrop_viz.perturbation import random_direction
    >>> direction = random_direction(torch.nn.Linear(3, 2), seed=0)
    >>> round(direction.scaled(2.0).norm, 6)
    2.0
    """

    vectors: Mapping[str, Tensor]
    label: str = "direction"
    seed: int | None = None
    normalize: str = "none"
    selection: str = ""

    _rows: ClassVar[int | None] = 12

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ValueError("expected at least one parameter that moves, got none; see Direction.vectors")
        if (bad := not_finite(self.vectors.items())) is not None:
            raise ValueError(f"expected finite steps, got NaN or infinity in {bad!r}; look at the weights behind it")

    @cached_property
    def norm(self) -> float:
        """The Euclidean norm over all elements (accumulated in float64)."""
        return self.dot(self) ** 0.5

    @property
    def n_elements(self) -> int:
        """How many elements move (are not zero)."""
        return sum(int(vector.count_nonzero()) for vector in self.vectors.values())

    def dot(self, other: Direction) -> float:
        """Return the inner product with another direction (accumulated in float64)."""
        shared = (name for name in self.vectors if name in other.vectors)
        return sum(float((self.vectors[name] * other.vectors[name]).sum(dtype=torch.float64)) for name in shared)

    def cosine(self, other: Direction) -> float:
        """Return the cosine of the angle to another direction."""
        return self.dot(other) / (self.norm * other.norm)

    def scaled(self, norm: float) -> Direction:
        """Return the same direction with the given Euclidean norm."""
        number(norm, "norm", above=0)
        if not 0 < self.norm < float("inf"):
            raise ValueError(f"expected a direction of finite norm above 0, got {self.norm!r}; it cannot be rescaled")
        factor = norm / self.norm
        return replace(self, vectors={name: vector * factor for name, vector in self.vectors.items()})

    def to_frame(self) -> pd.DataFrame:
        """Return one row per moved tensor: its elements, how many of them move, and the direction's norm in it."""
        import pandas as pd

        rows = [
            {"tensor": name, "elements": v.numel(), "moved": int(v.count_nonzero()), "norm": float(v.double().norm())}
            for name, v in self.vectors.items()
        ]
        return pd.DataFrame(rows).set_index("tensor")

    def _summary(self) -> str:
        where = f" over {self.selection}" if self.selection else ""
        size = f"norm {self.norm:.4g}, {self.n_elements:,} elements of {len(self.vectors)} tensors"
        return f"{self.label + where!r}: {size}, normalize={self.normalize!r}"


def orthogonalized(*directions: Direction) -> list[Direction]:
    """Make each direction orthogonal to the ones before it, and give it back the norm it had (Gram-Schmidt).

    To be used AFTER normalisation, when a plane with perpendicular axes is wanted; the norm of the whole is kept,
    the norms of single filters change slightly. Raises ValueError if a direction lies in the span of the others.

    >>> from gdrop_viz.perturbation import random_direction
    >>> model = torch.nn.Linear(4, 4)
    >>> d1, d2 = orthogonalized(random_direction(model, seed=0), random_direction(model, seed=1))
    >>> abs(d1.cosine(d2)) < 1e-6
    True
    """
    done: list[Direction] = []
    for direction in directions:
        rest = direction
        for _ in range(2):  # once more: the first pass leaves what rounding put there
            for earlier in done:
                share = earlier.dot(rest) / earlier.dot(earlier)
                rest = replace(rest, vectors=_sum(rest.vectors, earlier.vectors, -share))
        if rest.norm <= 1e-6 * direction.norm:
            raise ValueError(
                f"expected directions that span a plane, got {direction.label!r} in the span of the ones before it; "
                "take another seed"
            )
        done.append(rest.scaled(direction.norm) if done else direction)
    return done


def _sum(a: Mapping[str, Tensor], b: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """a + factor · b over the parameters of either."""
    out = {name: a[name] + factor * b[name] if name in b else a[name] for name in a}
    out.update({name: factor * vector for name, vector in b.items() if name not in a})
    return out
