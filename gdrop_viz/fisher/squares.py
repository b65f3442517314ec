"""Squares and norms of per-sequence gradients, of all uses of one parameter together.

A parameter used twice (a tied head, a shared layer) has two uses, whose gradients are added before they are squared.
`add_squares` forms every G_n²; for the norms alone (`squared_norms`) the Gram identity needs no weight gradient:
    matrix product   ‖G_n‖² = Σ_tt' (g_nt · g_nt') (a_nt · a_nt')
    table            ‖G_n‖² = Σ_tt' [index_t = index_t'] (g_nt · g_nt')
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gdrop_viz.fisher.per_sample import (
    ElementwiseUse,
    MatrixUse,
    PulledBackUse,
    RowwiseUse,
    TableUse,
    Use,
    accumulation_dtype,
)

# Gradients are formed in blocks of this many elements: large enough for a product at full speed, small enough to be
# squared and added while still in the cache (measured on two cores: 2^16 costs a fifth more than 2^20 on BERT-base).
BLOCK = 1 << 20


def add_squares(uses: list[Use], scores: Tensor) -> Tensor:
    """Add Σ_n G_n² to `scores` (the parameter's shape) and return ‖G_n‖² of every sequence, (N,)."""
    elementwise = [use.gradients.to(scores.dtype) for use in uses if isinstance(use, ElementwiseUse)]
    if len(elementwise) == len(uses):
        squares = reduce(torch.add, elementwise).square()
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
    dtype = accumulation_dtype(sample)
    buffer = torch.empty((step, *shape[1:]) if shape else (), dtype=dtype, device=sample.device)
    known_norms = _norms_by_gram(_factored(uses)) if _gram_costs(uses) < _DOT_SHARE else None
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
    elementwise = [use.gradients for use in uses if isinstance(use, ElementwiseUse)]
    if len(elementwise) == len(uses):
        total = reduce(torch.add, [each.to(accumulation_dtype(each)) for each in elementwise])
        return total.reshape(len(total), -1).square().sum(1)
    return _norms_by_gram(_factored(uses)) if _gram_costs(uses) < 1 else _add_squares_in_blocks(uses, None)


# reading a gradient once more costs about this share of forming it
_DOT_SHARE = 0.1
# Gram matrices of fewer rows are not worth halving
_HALVED = 64
# the attribute of an input under which its Gram matrices are kept
_GRAM = "_gram_matrices"


def _gram_costs(uses: list[Use]) -> float:
    """Arithmetic of the Gram identity, T² (P + Q) per sequence, in units of forming the gradient, T P Q."""
    if len(_factored(uses)) < len(uses):
        return float("inf")
    if all(isinstance(use, TableUse) for use in uses):
        return 0.0  # looked-up rows never need the whole table
    rows = sum(use.offsets[-1] for use in uses) / (len(uses[0].offsets) - 1)
    height, width = uses[0].shape
    return rows * (height + width) / (2 * height * width)


def _factored(uses: list[Use]) -> list[MatrixUse | TableUse]:
    """The uses whose gradient is a product of two factors."""
    return [use for use in uses if isinstance(use, (MatrixUse, TableUse))]


def _norms_by_gram(uses: list[MatrixUse | TableUse]) -> Tensor:
    first = uses[0]
    if len(uses) == 1:
        if isinstance(first, TableUse):
            _, sequence, gradient = first.combined()
            norms = gradient.new_zeros(len(first.offsets) - 1)
            return norms.index_add_(0, sequence, gradient.square().sum(1))
        return _batched_norms(first)
    sequences = len(uses[0].offsets) - 1
    dtype = accumulation_dtype(_right(uses[0]))
    norms = _right(uses[0]).new_zeros(sequences, dtype=dtype)
    for n in range(sequences):
        for i, a in enumerate(uses):
            for b in uses[i:]:
                product = (_left_gram(a, b, n, dtype) * (_right_rows(a, n, dtype) @ _right_rows(b, n, dtype).T)).sum()
                norms[n] += product if a is b else 2 * product
    return norms


def _batched_norms(use: MatrixUse) -> Tensor:
    """Σ_tt' (g_nt · g_nt') (a_nt · a_nt') of one matrix product, all sequences at once."""
    # query, key and value have one input: its Gram matrices are kept on it for the other two
    known = getattr(use.inputs, _GRAM, None)
    if known is None:
        known = _half_gram(_by_sequence(use, use.inputs))
        setattr(use.inputs, _GRAM, known)
    norms = use.gradient.new_zeros(len(use.offsets) - 1, dtype=accumulation_dtype(use.gradient))
    for mine, other in zip(known, _half_gram(_by_sequence(use, use.gradient)), strict=True):
        # of everything but the last, the blocks on the diagonal, only one of two equal halves is there
        norms.add_(other.mul_(mine).reshape(len(norms), -1).sum(1), alpha=1 if mine is known[-1] else 2)
    return norms


def _by_sequence(use: MatrixUse, rows: Tensor) -> Tensor:
    """Rows (R, width) as (N, T, width), shorter sequences filled up with zeros."""
    rows = rows.to(accumulation_dtype(rows))
    if use.equal_lengths is not None:
        return rows.reshape(len(use.offsets) - 1, use.equal_lengths, -1)
    return pad_sequence(rows.split(use.lengths), batch_first=True)


def _half_gram(rows: Tensor) -> list[Tensor]:
    """The Gram matrix of each sequence's rows (N, T, width) without what its symmetry repeats.

    It is halved again and again: the block off the diagonal goes to the list, those on it are halved next.
    """
    pieces = []
    while rows.shape[1] >= _HALVED and rows.shape[1] % 2 == 0:
        half = rows.shape[1] // 2
        pieces.append(torch.bmm(rows[:, :half], rows[:, half:].mT))
        rows = rows.reshape(-1, half, rows.shape[2])
    return [*pieces, torch.bmm(rows, rows.mT)]


def _left_gram(a: MatrixUse | TableUse, b: MatrixUse | TableUse, n: int, dtype: torch.dtype) -> Tensor:
    """leftₐ left_bᵀ for sequence n, where the left factor of a table is one-hot."""
    if isinstance(a, MatrixUse):
        if isinstance(b, MatrixUse):
            return a.left[a.rows(n)].to(dtype) @ b.left[b.rows(n)].to(dtype).T
        return a.left[a.rows(n)][:, b.index[b.rows(n)]].to(dtype)
    if isinstance(b, MatrixUse):
        return b.left[b.rows(n)][:, a.index[a.rows(n)]].T.to(dtype)
    return (a.index[a.rows(n)].unsqueeze(1) == b.index[b.rows(n)].unsqueeze(0)).to(dtype)


def _right(use: MatrixUse | TableUse) -> Tensor:
    return use.right if isinstance(use, MatrixUse) else use.gradient


def _right_rows(use: MatrixUse | TableUse, n: int, dtype: torch.dtype) -> Tensor:
    return _right(use)[use.rows(n)].to(dtype)


def _any_gradient(uses: list[Use]) -> Tensor:
    use = uses[0].inner if isinstance(uses[0], PulledBackUse) else uses[0]
    if isinstance(use, ElementwiseUse):
        return use.gradients
    assert isinstance(use, (MatrixUse, TableUse, RowwiseUse))
    return use.gradient
