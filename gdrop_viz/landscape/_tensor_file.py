"""How are masks, vectors and estimates kept? As safetensors, with what they are as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdrop_viz._files import atomic_path


def write_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor | np.ndarray], facts: Mapping[str, Any]
) -> None:
    """Write `tensors` in one file that says it holds a `kind`, described by `facts`."""
    from safetensors.torch import save_file

    whole = {name: torch.as_tensor(tensor).cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"names": list(tensors), **facts})
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={f"gdrop_viz.{kind}": header})


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors (in their order) and facts of a file of this `kind`; FileNotFoundError, ValueError otherwise."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"expected a file written by {kind}.save, got {os.fspath(path)!r}, which does not exist"
        )
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})[f"gdrop_viz.{kind}"])
            return {name: file.get_tensor(name) for name in facts.pop("names")}, facts
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"expected a file written by {kind}.save, got {os.fspath(path)!r} ({error})") from None
