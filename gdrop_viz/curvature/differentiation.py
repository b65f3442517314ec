"""Second derivatives of a model's loss: the forms of attention that have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Run attention in a form that has a second derivative; the model's choice is restored afterwards."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    switch = getattr(model, "set_attn_implementation", None) if attention not in (None, "eager", "sdpa") else None
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        if switch is not None:
            switch("eager")
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layers)
        if switch is not None:
            switch(attention)
