"""Weights of a checkpoint, be it a model, a state dict or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from gdrop_viz.base.saved import DamagedFile
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.checksums import verify


def weights_of(checkpoint: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Return parameter name -> Tensor of a model, a state dict, or a safetensors file (or a folder with one).

    FileNotFoundError or DamagedFile (a ValueError) if there is no sound one at the path.
    """
    if isinstance(checkpoint, nn.Module):
        return dict(undistributed(checkpoint).named_parameters())
    if isinstance(checkpoint, Mapping):
        return checkpoint
    if isinstance(checkpoint, (str, os.PathLike)):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = os.fspath(checkpoint)
        if os.path.isdir(path):
            verify(Path(path))
            path = os.path.join(path, "model.safetensors")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"expected a safetensors file or a folder with model.safetensors, got {path!r}")
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise DamagedFile(f"{path} is damaged or not a safetensors file ({why}); save the weights again") from None
    raise TypeError(f"expected a model, a state dict or a safetensors path, got {type(checkpoint).__name__}")
