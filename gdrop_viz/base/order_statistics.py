"""Order statistics of many scores in little memory: the k largest elements, and how much of the sum they hold.

Scores are read piece by piece; nothing is sorted to find a threshold. Numbers are taken as integers of the same order,
whose digits are counted from the highest to the lowest: each pass over the scores settles 16 bits of the threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PIECE = 1 << 20  # elements: a piece and what is made of it stay near the processor
_DIGITS = 16  # bits settled by one pass
_SIZE = 1 << _DIGITS


def largest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Mark exactly the `count` largest of all elements; among equals the earlier tensor and position win.

    Parameters
    ----------
    scores
        Name -> tensor of floats or integers, on any device. A mapping that makes a tensor when it is asked for one
        is asked several times.
    count
        From 0 to the number of elements.

    Returns
    -------
    dict
        Name -> BoolTensor of the tensor's shape, on the CPU. Beyond these, some tens of megabytes are used.

    Raises
    ------
    ValueError
        For a score that is NaN or infinite.

    >>> largest({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([3.0, 3.0])}, 2)
    {'a': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    threshold, equals = _threshold(scores, count) if count else (np.inf, 0)
    masks = {}
    for name, score in scores.items():
        masks[name] = torch.zeros(score.shape, dtype=torch.bool)
        if not count:
            continue
        start, flat = 0, masks[name].view(-1).numpy()
        for values in _pieces(score):
            mask = flat[start : start + len(values)]
            np.greater(values, threshold, out=mask)
            if equals:
                same = np.flatnonzero(values == threshold)[:equals]
                mask[same] = True
                equals -= len(same)
            start += len(values)
    return masks


def concentration(scores: Iterable[Tensor], ranks: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what the highest scores hold of the sum, and the area under that curve.

    Parameters
    ----------
    scores
        Tensors of scores that are not negative; a copy of them all is sorted in place.
    ranks
        (R,) ascending numbers of elements, from 1 to all.

    Returns
    -------
    shares, area
        (R,): the share of the sum in the `ranks` highest elements; and the area under the whole curve from 0 to all
        elements, by trapezoids: 2 area - 1 is the Gini coefficient. Sums are taken in float64; 0 where all are 0.

    >>> concentration([torch.tensor([1.0, 3.0])], np.array([1, 2]))
    (array([0.75, 1.  ]), 0.625)
    """
    tensors = list(scores)
    ordered = np.empty(sum(tensor.numel() for tensor in tensors), dtype=_common_dtype(tensors))
    filled = 0
    for tensor in tensors:
        for values in _pieces(tensor):
            ordered[filled : filled + len(values)] = values
            filled += len(values)
    ordered.sort()
    ordered = ordered[::-1]
    carried, doubled = 0.0, 0.0
    shares = np.empty(len(ranks))
    for start in range(0, len(ordered), _PIECE):
        piece = ordered[start : start + _PIECE].astype(np.float64)
        sums = carried + piece.cumsum()
        doubled += float((2 * sums - piece).sum())
        here = slice(*np.searchsorted(ranks, [start + 1, start + len(piece) + 1]))
        shares[here] = sums[ranks[here] - start - 1]
        carried = float(sums[-1])
    total = carried or 1.0
    return shares / total, doubled / (2 * total * len(ordered))


def _threshold(scores: Mapping[str, Tensor], count: int) -> tuple[Any, int]:
    """The `count`-th largest of all elements, and how many of those that equal it are among the `count` largest."""
    dtype = _common_dtype(scores.values())
    bits = 8 * dtype.itemsize
    start, wanted = -(_SIZE >> 1), count  # the lowest digit that is looked at; how many of it are wanted
    for shift in range(bits - _DIGITS, -1, -_DIGITS):
        counts = np.zeros(_SIZE, dtype=np.int64)
        for score in scores.values():
            for values in _pieces(score):
                digits = (_ordered_integers(values.astype(dtype, copy=False)) >> shift) - start
                counts += np.bincount(digits[(digits >= 0) & (digits < _SIZE)], minlength=_SIZE)
        from_above = counts[::-1].cumsum()
        place = int(np.searchsorted(from_above, wanted))
        wanted -= int(from_above[place] - counts[::-1][place])
        found = start + _SIZE - 1 - place
        start = found << _DIGITS
    return _number(found, dtype), wanted


def _ordered_integers(values: np.ndarray) -> np.ndarray:
    """Signed integers in the order of `values`."""
    if values.dtype.kind == "i":
        return values
    if not np.isfinite(values).all():
        raise ValueError("expected finite scores, got NaN or infinity; estimate the Fisher information again")
    integers = (values + values.dtype.type(0)).view(f"i{values.dtype.itemsize}")  # -0.0 becomes 0.0
    # of floats below 0 the bits count downwards
    return integers ^ ((integers >> (8 * values.dtype.itemsize - 1)) & np.iinfo(integers.dtype).max)


def _number(integer: int, dtype: np.dtype[Any]) -> Any:
    """What `_ordered_integers` made that integer of."""
    if dtype.kind == "i":
        return dtype.type(integer)
    whole = np.array(integer, dtype=f"i{dtype.itemsize}")
    return (whole ^ ((whole >> (8 * dtype.itemsize - 1)) & np.iinfo(whole.dtype).max)).view(dtype)[()]


def _pieces(tensor: Tensor) -> Iterator[np.ndarray]:
    for piece in tensor.detach().reshape(-1).split(_PIECE):
        # numpy knows no bfloat16
        yield (piece.float() if piece.dtype in (torch.bfloat16, torch.float16) else piece).cpu().numpy()


def _common_dtype(tensors: Iterable[Tensor]) -> np.dtype[Any]:
    """A type of at least 32 bits that holds the numbers of all."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if dtype.itemsize < 4:
        dtype = torch.float32 if dtype.is_floating_point else torch.int32
    return torch.empty((), dtype=dtype).numpy().dtype
