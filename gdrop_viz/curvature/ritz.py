"""Rayleigh-Ritz approximations of extreme eigenpairs, from the products of an unfinished search."""

from __future__ import annotations

import numpy as np


class Ritz:
    """Vectors v with their products H v, condensed to the `k` best approximate eigenpairs when they become many.

    Rayleigh-Ritz: within the span of the vectors, the eigenvectors of H projected onto it. Products are linear, so
    those of the condensed vectors need no new ones.

    >>> ritz = Ritz(1, "LA")
    >>> for v in np.eye(2):
    ...     ritz.add(v, np.array([[2.0, 1.0], [1.0, 2.0]]) @ v)
    >>> ritz.pairs()[0].round(6)
    array([3.])
    """

    def __init__(self, k: int, which: str) -> None:
        self._k, self._which = k, which
        self._vectors: list[np.ndarray] = []
        self._products: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._vectors)

    def add(self, vector: np.ndarray, product: np.ndarray) -> None:
        """Take in one more pair."""
        if len(self) == max(2 * self._k, self._k + 8):
            _, vectors, products = self._best(self._k + 2)  # a few more than asked for: they may still overtake
            self._vectors, self._products = list(vectors), list(products)
        self._vectors.append(np.array(vector).reshape(-1))  # copies: ARPACK writes its next vector to the same place
        self._products.append(np.array(product).reshape(-1))

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return at most k values, descending, unit vectors (n, k) and their residuals ‖H v - λ v‖ / |λ|."""
        values, vectors, products = self._best(self._k)
        residuals = np.linalg.norm(products - values[:, None] * vectors, axis=1)
        return values, vectors.T, residuals / np.maximum(abs(values), np.finfo(vectors.dtype).tiny)

    def _best(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vectors, products = np.array(self._vectors), np.array(self._products)
        sizes, axes = np.linalg.eigh((vectors @ vectors.T).astype(np.float64))
        # what the vectors have in common more than once is rounding, not a direction of its own
        kept = sizes > 1e3 * np.finfo(vectors.dtype).eps * sizes[-1]
        frame = axes[:, kept] / np.sqrt(sizes[kept])  # (m, r): frameᵀ vectors is orthonormal
        projected = frame.T @ (vectors @ products.T).astype(np.float64) @ frame
        values, inner = np.linalg.eigh((projected + projected.T) / 2)
        chosen = _ends(values, k, self._which)
        weights = (frame @ inner[:, chosen]).T.astype(vectors.dtype)
        return values[chosen].astype(vectors.dtype), weights @ vectors, weights @ products


def _ends(values: np.ndarray, k: int, which: str) -> np.ndarray:
    """Where the k values of that end stand among ascending `values`, largest first."""
    n = len(values)
    if which == "BE":  # as ARPACK: of an odd number one more from the high end
        order = [i for pair in zip(range(n - 1, -1, -1), range(n), strict=True) for i in pair]
    elif which == "LM":
        order = list(np.argsort(-abs(values)))
    else:
        order = list(range(n))[:: -1 if which == "LA" else 1]
    return np.array(sorted(dict.fromkeys(order[: min(k, n)]), reverse=True))
