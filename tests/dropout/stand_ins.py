"""Fisher scores for tests: any positive number per parameter, without an estimate."""

from __future__ import annotations

import zlib

from torch import nn

from gdrop_viz import Fisher


def made_up_fisher(model: nn.Module) -> Fisher:
    """A different, reproducible score for each named parameter."""
    scores = {name: 1e-6 + zlib.crc32(name.encode()) / 2**32 for name, _ in model.named_parameters()}
    return Fisher.from_means(scores)
