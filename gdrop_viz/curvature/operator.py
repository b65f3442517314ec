"""Protocols of the operators that spectrum, density and trace estimates need: products with a symmetric matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from gdrop_viz.perturbation.direction import Direction
from gdrop_viz.perturbation.selection import Selection


class Operator(Protocol):
    """A symmetric matrix of n rows that is known by its products with vectors (n,), computed inside its context.

    A vector is made of the (selected) elements of the tensors `names`, `sizes` of them each; `label` says in words
    over which parameters the operator is.
    """

    names: list[str]
    sizes: list[int]
    dtype: np.dtype[np.floating[Any]]

    def __enter__(self) -> object:
        """Begin; contexts may be nested."""

    def __exit__(self, *error: object) -> None:
        """End, leaving everything as it was."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""

    @property
    def label(self) -> str:
        """Over which parameters."""

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return the product with a vector (n,)."""

    def direction(self, vector: np.ndarray, label: str) -> Direction:
        """Return a vector (n,) as a direction in weight space."""

    def places(self, part: Selection) -> np.ndarray:
        """Return where the elements of `part` stand in a vector."""


class SumOperator(Operator, Protocol):
    """An operator that is a mean over the sequences of `batches`, each of whose terms can be had alone."""

    batches: list[Mapping[str, Any]]

    def of(
        self, batch: Mapping[str, Any], where: str = "the batch", first: int = 0
    ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Return gradient (n,) and product (v -> H_b v) of the sum of the losses of one batch."""
