"""What does one use of a parameter contribute to each sequence's gradient?

A parameter meets the data in few ways: as a factor of a matrix product, as a looked-up table, as an elementwise factor
or summand. Each way is a `Use`: what the forward saw, what the backward brought, and from both the gradient of every
single sequence, without a loop over models. A parameter used twice (a tied head, a shared layer) has two uses, and
their gradients are added before they are squared.

In formulas, with g_nt the gradient of L_n at the use's output and a_nt its input at row t of sequence n:
    matrix product   G_n = Σ_t g_nt a_ntᵀ            ‖G_n‖² = Σ_tt' (g_nt · g_nt') (a_nt · a_nt')
    table            G_n[i] = Σ_{t: index = i} g_nt   ‖G_n‖² = Σ_tt' [index_t = index_t'] (g_nt · g_nt')
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
        for name in ("forward", "known", "brought", "gradients", "reduce", "index", "order"):
            if hasattr(self, name):
                setattr(self, name, None)


@dataclass
class MatrixUse(Use):
    """A matrix product: G = Σ_t left_t right_tᵀ; the forward knows one factor, the backward brings the other.

    `known` is the input, (R, I); the parameter is (O, I) if not `transposed` (nn.Linear), else (I, O) (GPT-2's Conv1D).
    """

    known: Tensor
    transposed: bool
    brought: Tensor | None = None
    forward: tuple[Tensor, tuple[int, ...]] | None = field(init=False)

    def __post_init__(self) -> None:
        self.forward = self.known, self.offsets

    def receive(self, grad: Tensor) -> None:
        # every draw of a sampled estimator brings another gradient to the same forward
        self.known, self.offsets = self.forward
        self.brought = grad.reshape(-1, grad.shape[-1])
        self._drop_silent_rows()

    def _drop_silent_rows(self) -> None:
        """Leave out rows without gradient: padding, and in a last layer every position that predicts nothing."""
        # one column settles most cases at a fraction of the price
        if (self.brought[:, 0] != 0).sum() > _MOST * len(self.brought):
            return
        heard = (self.brought != 0).any(-1)
        counts = torch.stack([part.sum() for part in heard.split(self.lengths)]).tolist()
        if sum(counts) > _MOST * len(heard):
            return
        self.known, self.brought = self.known[heard], self.brought[heard]
        self.offsets = (0, *accumulate(counts))

    @property
    def left(self) -> Tensor:
        """(R, parameter's first axis)."""
        return self.known if self.transposed else self.brought

    @property
    def right(self) -> Tensor:
        """(R, parameter's second axis)."""
        return self.brought if self.transposed else self.known

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
    brought: Tensor | None = None
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
        self.brought = grad

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        low, high = self.offsets[n], self.offsets[n + 1]
        at = slice(
            bisect_left(self.positions, rows.start, low, high), bisect_left(self.positions, rows.stop, low, high)
        )
        if at.start < at.stop:
            gradient.index_add_(0, self.index[at] - rows.start, self.brought[at].to(gradient.dtype))

    def combined(self) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct (sequence, row) pairs: row (U,), sequence (U,), and the gradient there (U, width)."""
        counts = torch.tensor(self.offsets, device=self.index.device).diff()
        sequence = torch.repeat_interleave(torch.arange(len(counts), device=self.index.device), counts)
        keys, inverse = torch.unique_consecutive(sequence * self.shape[0] + self.index, return_inverse=True)
        brought = self.brought.to(_accumulation_dtype(self.brought))
        gradient = brought.new_zeros(len(keys), brought.shape[1]).index_add_(0, inverse, brought)
        return keys % self.shape[0], keys // self.shape[0], gradient


@dataclass
class ElementwiseUse(Use):
    """A use whose per-sequence gradients are small enough to keep: biases, norm weights, elementwise factors.

    `reduce(grad)` gives the gradients of all sequences, (N, *shape).
    """

    reduce: Callable[[Tensor], Tensor]
    gradients: Tensor | None = None

    def receive(self, grad: Tensor) -> None:
        self.gradients = self.reduce(grad)

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        gradient.add_(self.gradients[n] if not self.shape else self.gradients[n, rows])


@dataclass
class RowwiseUse(Use):
    """A use whose first axis is the sequences' (a bias expanded over the batch): G_n lives in sequence n's rows."""

    brought: Tensor | None = None

    def receive(self, grad: Tensor) -> None:
        self.brought = grad

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        own = self.rows(n)
        at = slice(max(own.start, rows.start), min(own.stop, rows.stop))
        if at.start < at.stop:
            gradient[at.start - rows.start : at.stop - rows.start].add_(self.brought[at])


@dataclass
class PulledBackUse(Use):
    """A use of something computed from parameters alone (`1 + weight`, `weight.T`, a bias table): the chain rule.

    `inner` is the use of that derived tensor; `pull_back(G)` takes a gradient of the derived tensor to the parameter's.
    """

    inner: Use
    pull_back: Callable[[Tensor], Tensor]

    def receive(self, grad: Tensor) -> None:
        """`inner` is told by whoever owns it, once for all parameters that it derives from."""

    def add_to(self, gradient: Tensor, n: int, rows: slice) -> None:
        derived = torch.zeros(self.inner.shape, dtype=gradient.dtype, device=gradient.device)
        self.inner.add_to(derived, n, slice(0, self.inner.shape[0] if self.inner.shape else 1))
        pulled = self.pull_back(derived).to(gradient.dtype)
        gradient.add_(pulled if not self.shape else pulled[rows])


# --- squares summed over sequences -----------------------------------------------------------------------------------

# Gradients are formed in blocks of this many elements: large enough for a product at full speed, small enough to be
# squared and added while still in the cache (measured on two cores: 2^16 costs a fifth more than 2^20 on BERT-base).
BLOCK = 1 << 20


def add_squares(uses: list[Use], scores: Tensor) -> Tensor:
    """Add Σ_n G_n² to `scores` (the parameter's shape) and return ‖G_n‖² of every sequence, (N,)."""
    if all(isinstance(use, ElementwiseUse) for use in uses):
        squares = sum(use.gradients.to(scores.dtype) for use in uses).square()
        scores += squares.sum(0)
        return squares.reshape(len(squares), -1).sum(1)  # a scalar parameter has no axis to flatten
    if len(uses) == 1 and isinstance(uses[0], TableUse):
        row, sequence, gradient = uses[0].combined()
        squares = gradient.square()
        scores.index_add_(0, row, squares.to(scores.dtype))
        return squares.new_zeros(len(uses[0].offsets) - 1).index_add_(0, sequence, squares.sum(1))
    return _add_squares_in_blocks(uses, scores)


def _add_squares_in_blocks(uses: list[Use], scores: Tensor | None) -> Tensor:
    # a product writes its block outright, a look-up needs it cleared first
    first, *others = sorted(uses, key=lambda use: not isinstance(use, MatrixUse))
    shape = first.shape
    height = shape[0] if shape else 1
    # the chain rule needs whole gradients; everything else is formed block by block of rows
    whole = any(isinstance(use, PulledBackUse) for use in uses)
    step = height if whole else max(1, min(height, BLOCK // max(1, shape[1:].numel())))
    sample = scores if scores is not None else _any_gradient(uses)
    dtype = _accumulation_dtype(sample)
    buffer = torch.empty((step, *shape[1:]) if shape else (), dtype=dtype, device=sample.device)
    known_norms = _norms_by_gram(uses) if _gram_costs(uses) < _DOT_SHARE else None
    norms = torch.zeros(len(first.offsets) - 1, dtype=dtype, device=sample.device)
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        gradient = buffer[: rows.stop - start] if shape else buffer
        flat = gradient.view(-1)
        for n in range(len(norms)):
            first.write_to(gradient, n, rows)
            for use in others:
                use.add_to(gradient, n, rows)
            if known_norms is None:
                norms[n] += torch.dot(flat, flat)
            if scores is not None:
                (scores[rows] if shape else scores).addcmul_(gradient, gradient)
    return norms if known_norms is None else known_norms


def squared_norms(uses: list[Use]) -> Tensor:
    """‖G_n‖² of every sequence, (N,), without forming a matrix gradient where the Gram identity is cheaper.

    With several uses G_n = Σ_u leftᵤᵀ rightᵤ, so ‖G_n‖² = Σ_uv Σ (leftᵤ leftᵥᵀ) ∘ (rightᵤ rightᵥᵀ).
    """
    if all(isinstance(use, ElementwiseUse) for use in uses):
        total = sum(use.gradients.to(_accumulation_dtype(use.gradients)) for use in uses)
        return total.reshape(len(total), -1).square().sum(1)
    return _norms_by_gram(uses) if _gram_costs(uses) < 1 else _add_squares_in_blocks(uses, None)


# reading a gradient once more costs about this share of forming it
_DOT_SHARE = 0.1


def _gram_costs(uses: list[Use]) -> float:
    """Arithmetic of the Gram identity, T² (P + Q) per sequence, in units of forming the gradient, T P Q."""
    if not all(isinstance(use, (MatrixUse, TableUse)) for use in uses):
        return float("inf")
    if all(isinstance(use, TableUse) for use in uses):
        return 0.0  # looked-up rows never need the whole table
    rows = sum(use.offsets[-1] for use in uses) / (len(uses[0].offsets) - 1)
    height, width = uses[0].shape
    return rows * (height + width) / (2 * height * width)


def _norms_by_gram(uses: list[MatrixUse | TableUse]) -> Tensor:
    if len(uses) == 1:
        if isinstance(uses[0], TableUse):
            _, sequence, gradient = uses[0].combined()
            norms = gradient.new_zeros(len(uses[0].offsets) - 1)
            return norms.index_add_(0, sequence, gradient.square().sum(1))
        if uses[0].equal_lengths is not None:
            return _batched_norms(uses[0], uses[0].equal_lengths)
    sequences = len(uses[0].offsets) - 1
    dtype = _accumulation_dtype(_right(uses[0]))
    norms = _right(uses[0]).new_zeros(sequences, dtype=dtype)
    for n in range(sequences):
        for i, a in enumerate(uses):
            for b in uses[i:]:
                product = (_left_gram(a, b, n, dtype) * (_right_rows(a, n, dtype) @ _right_rows(b, n, dtype).T)).sum()
                norms[n] += product if a is b else 2 * product
    return norms


def _batched_norms(use: MatrixUse, length: int) -> Tensor:
    sequences = len(use.offsets) - 1
    dtype = _accumulation_dtype(use.brought)
    brought = use.brought.reshape(sequences, length, -1).to(dtype)
    # query, key and value have one input: its Gram matrix is kept on it for the other two
    known_gram = getattr(use.known, "_gram", None)
    if known_gram is None:
        known = use.known.reshape(sequences, length, -1).to(dtype)
        known_gram = use.known._gram = torch.bmm(known, known.mT)
    return torch.bmm(brought, brought.mT).mul_(known_gram).sum((1, 2))


def _left_gram(a: MatrixUse | TableUse, b: MatrixUse | TableUse, n: int, dtype: torch.dtype) -> Tensor:
    """leftₐ left_bᵀ for sequence n, where the left factor of a table is one-hot."""
    if isinstance(a, MatrixUse) and isinstance(b, MatrixUse):
        return a.left[a.rows(n)].to(dtype) @ b.left[b.rows(n)].to(dtype).T
    if isinstance(a, MatrixUse):
        return a.left[a.rows(n)][:, b.index[b.rows(n)]].to(dtype)
    if isinstance(b, MatrixUse):
        return b.left[b.rows(n)][:, a.index[a.rows(n)]].T.to(dtype)
    return (a.index[a.rows(n)].unsqueeze(1) == b.index[b.rows(n)].unsqueeze(0)).to(dtype)


def _right(use: MatrixUse | TableUse) -> Tensor:
    return use.right if isinstance(use, MatrixUse) else use.brought


def _right_rows(use: MatrixUse | TableUse, n: int, dtype: torch.dtype) -> Tensor:
    return _right(use)[use.rows(n)].to(dtype)


def _any_gradient(uses: list[Use]) -> Tensor:
    use = uses[0].inner if isinstance(uses[0], PulledBackUse) else uses[0]
    return use.gradients if isinstance(use, ElementwiseUse) else use.brought


def _accumulation_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
