"""Per-sequence gradients of one use of a parameter.

A parameter meets the data in few ways: as a factor of a matrix product, as a looked-up table, as an elementwise factor
or summand. Each way is a `Use`: the input of the forward pass, the gradient of the backward pass, and from both the
gradient of every single sequence, without a loop over models.

In formulas, with g_nt the gradient of L_n at the use's output and a_nt its input at row t of sequence n:
    matrix product   G_n = Σ_t g_nt a_ntᵀ
    table            G_n[i] = Σ_{t: index = i} g_nt
    elementwise      G_n = Σ_t g_nt ∘ (factor_nt)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

_MOST = 0.8  # leaving out fewer than a fifth of the rows is not worth copying the others


@dataclass
class Use(ABC):
    """One use of a parameter in a forward pass. `offsets`: rows of sequence n are offsets[n] .. offsets[n + 1] - 1."""

    shape: torch.Size
    offsets: tuple[int, ...]

    def rows(self, n: int) -> slice:
        return slice(self.offsets[n], self.offsets[n + 1])

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in zip(self.offsets, self.offsets[1:], strict=False)]

    @property
    def equal_lengths(self) -> int | None:
        """Rows per sequence if all sequences have the same number, else None."""
        length = self.offsets[1] - self.offsets[0]
        return length if self.offsets == tuple(range(0, length * len(self.offsets), length or 1)) else None

    @abstractmethod
    def receive(self, grad: Tensor) -> None:
        """Take the gradient of Σ_n L_n with respect to the output of this use."""

    @abstractmethod
    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        """Add rows `rows` (of the parameter's first axis) of sequence n's gradient to `gradient`."""

    def write_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        """The same, into a buffer whose content does not matter."""
        self.add_to(gradient.zero_(), n, rows)

    def release(self) -> None:
        """Let go of what was kept of forward and backward."""
        for name in ("forward", "inputs", "gradient", "gradients", "reduce", "index", "order"):
            vars(self).pop(name, None)


@dataclass
class MatrixUse(Use):
    """A matrix product: G = Σ_t left_t right_tᵀ; the forward pass gives one factor, the backward the other.

    `inputs` is (R, I), `gradient` that of the output, (R, O); the parameter is (O, I) if not `transposed` (nn.Linear),
    else (I, O) (GPT-2's Conv1D).
    """

    inputs: Tensor
    transposed: bool
    gradient: Tensor = field(init=False)
    forward: tuple[Tensor, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.forward = self.inputs, self.offsets

    def receive(self, grad: Tensor) -> None:
        # every draw of a sampled estimator has another gradient for the same forward pass
        self.inputs, self.offsets = self.forward
        self.gradient = grad.reshape(-1, grad.shape[-1])
        self._drop_zero_rows()

    def _drop_zero_rows(self) -> None:
        """Leave out rows without gradient: padding, and in a last layer every position that predicts nothing."""
        # one column settles most cases at a fraction of the price
        if (self.gradient[:, 0] != 0).sum() > _MOST * len(self.gradient):
            return
        nonzero = (self.gradient != 0).any(-1)
        counts = torch.stack([part.sum() for part in nonzero.split(self.lengths)]).tolist()
        if sum(counts) > _MOST * len(nonzero):
            return
        self.inputs, self.gradient = self.inputs[nonzero], self.gradient[nonzero]
        self.offsets = (0, *accumulate(counts))

    @property
    def left(self) -> Tensor:
        """(R, parameter's first axis)."""
        return self.inputs if self.transposed else self.gradient

    @property
    def right(self) -> Tensor:
        """(R, parameter's second axis)."""
        return self.gradient if self.transposed else self.inputs

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        gradient.addmm_(*self._factors(n, rows, gradient.dtype))

    def write_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        torch.mm(*self._factors(n, rows, gradient.dtype), out=gradient)

    def _factors(self, n: int, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        at = self.rows(n)
        return self.left[at, rows].to(dtype).T, self.right[at].to(dtype)


@dataclass
class TableUse(Use):
    """A look-up (embedding): `index` (R,) picks rows of the parameter; `padding` is the row that never learns.

    Rows are kept sorted by index within each sequence, so that any slice of the table finds its rows at once.
    """

    index: Tensor
    padding: int | None = None
    gradient: Tensor = field(init=False)
    order: Tensor = field(init=False)
    positions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        counts = torch.tensor(self.offsets, device=self.index.device).diff()
        sequence = torch.repeat_interleave(torch.arange(len(counts), device=self.index.device), counts)
        self.order = torch.argsort(sequence * self.shape[0] + self.index)
        self.index = self.index[self.order]
        self.positions = self.index.tolist()

    def receive(self, grad: Tensor) -> None:
        grad = grad.reshape(-1, grad.shape[-1])[self.order]
        if self.padding is not None:
            grad.masked_fill_((self.index == self.padding).unsqueeze(-1), 0)
        self.gradient = grad

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        low, high = self.offsets[n], self.offsets[n + 1]
        at = slice(
            bisect_left(self.positions, rows.start, low, high), bisect_left(self.positions, rows.stop, low, high)
        )
        if at.start < at.stop:
            gradient.index_add_(0, self.index[at] - rows.start, self.gradient[at].to(gradient.dtype))

    def combined(self) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct (sequence, row) pairs: row (U,), sequence (U,), and the gradient there (U, width)."""
        counts = torch.tensor(self.offsets, device=self.index.device).diff()
        sequence = torch.repeat_interleave(torch.arange(len(counts), device=self.index.device), counts)
        keys, inverse = torch.unique_consecutive(sequence * self.shape[0] + self.index, return_inverse=True)
        each = self.gradient.to(accumulation_dtype(self.gradient))
        gradient = each.new_zeros(len(keys), each.shape[1]).index_add_(0, inverse, each)
        return keys % self.shape[0], keys // self.shape[0], gradient


@dataclass
class ElementwiseUse(Use):
    """A use whose per-sequence gradients are small enough to keep: biases, norm weights, elementwise factors.

    `reduce(grad)` gives the gradients of all sequences, (N, *shape).
    """

    reduce: Callable[[Tensor], Tensor]
    gradients: Tensor = field(init=False)

    def receive(self, grad: Tensor) -> None:
        self.gradients = self.reduce(grad)

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        gradient.add_(self.gradients[n] if not self.shape else self.gradients[n, rows])


@dataclass
class RowwiseUse(Use):
    """A use whose first axis is the sequences' (a bias expanded over the batch): G_n lives in sequence n's rows."""

    gradient: Tensor = field(init=False)

    def receive(self, grad: Tensor) -> None:
        self.gradient = grad

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        own = self.rows(n)
        at = slice(max(own.start, rows.start), min(own.stop, rows.stop))
        if at.start < at.stop:
            gradient[at.start - rows.start : at.stop - rows.start].add_(self.gradient[at])


@dataclass
class PulledBackUse(Use):
    """A use of something computed from parameters alone (`1 + weight`, `weight.T`, a bias table): the chain rule.

    `inner` is the use of that derived tensor; `pull_back(G)` takes a gradient of the derived tensor to the parameter's.
    """

    inner: Use
    pull_back: Callable[[Tensor], Tensor]

    def receive(self, grad: Tensor) -> None:
        """`inner` gets it from whoever owns it, once for all parameters that it derives from."""

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        derived = torch.zeros(self.inner.shape, dtype=gradient.dtype, device=gradient.device)
        self.inner.add_to(derived, n, slice(0, self.inner.shape[0] if self.inner.shape else 1))
        pulled = self.pull_back(derived).to(gradient.dtype)
        gradient.add_(pulled if not self.shape else pulled[rows])


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Gradients of half precision are added and squared in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
