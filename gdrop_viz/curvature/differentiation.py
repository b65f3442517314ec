"""Second derivatives of a model's loss: forms of its parts that have them, and a check against differences."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

STEPS = (1e-2, 1e-3, 1e-4)  # of differences, in multiples of each tensor's root mean square
_SURE = 0.01  # differences of two steps that agree to this part of their size are believed
_FAR = 0.05  # a product that is this far from believed differences is wrong


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Run attention in a form that has a second derivative, and no compiled code; the model's choices are restored."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()
    kernels: list[tuple[Any, Any]] = [(config, getattr(config, "_attn_implementation", None)) for config in configs]
    fused = any(kernel not in (None, "eager", "sdpa") for _, kernel in kernels)
    switch = getattr(model, "set_attn_implementation", None) if fused else None
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            if switch is not None:
                switch("eager")
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused_layers)
            if switch is not None:
                for config, kernel in kernels:  # a model's own before those of its parts, which it would overwrite
                    if kernel is not None:
                        config._attn_implementation = kernel


def disagreement(
    product: np.ndarray, differences: Sequence[np.ndarray], sizes: Sequence[int]
) -> tuple[int, float] | None:
    """Find where a Hessian-vector product is not the derivative of the gradient along the vector.

    Parameters
    ----------
    product
        (n,): H v.
    differences
        (n,) each: [∇L(θ + t v) - ∇L(θ - t v)] / 2 t for falling steps t. Two successive ones that agree to 1 % are
        believed. Where none do (a kink within the step, rounding, noise), nothing can be said.
    sizes
        Lengths of the blocks that are judged, each by itself: an error in a small part shall not drown.

    Returns
    -------
    (int, float) or None
        The block that is furthest off, and its distance in multiples of the block's norm; None if all is well.
    """
    ends = np.cumsum(sizes)
    floor = 1e-3 * np.linalg.norm(product) / np.sqrt(len(sizes))  # below it, a block's differences are rounding
    worst: tuple[int, float] | None = None
    for block, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        pairs = [(a[start:end], b[start:end]) for a, b in pairwise(differences)]
        spans = [float(np.linalg.norm(a - b)) for a, b in pairs]
        closest = int(np.argmin(np.nan_to_num(spans, nan=np.inf)))
        truth = pairs[closest][1]
        norm = float(np.linalg.norm(truth))
        if not floor < norm < np.inf or not spans[closest] <= _SURE * norm:
            continue
        off = float(np.linalg.norm(product[start:end] - truth)) / norm
        if off > max(_FAR, worst[1] if worst else 0.0):
            worst = block, off
    return worst
