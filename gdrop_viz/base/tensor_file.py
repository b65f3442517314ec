"""How are masks, vectors and estimates kept? As sealed safetensors, with what they are as JSON in the header."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdrop_viz.base.saved import DamagedFile, load_tensors, save_tensors


def write_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor | np.ndarray], facts: Mapping[str, Any]
) -> None:
    """Write `tensors` in one file that says it holds a `kind`, described by `facts`."""
    whole = {name: torch.as_tensor(tensor).cpu() for name, tensor in tensors.items()}
    save_tensors(path, f"gdrop_viz.{kind}", {"names": list(tensors), **facts}, whole)


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors (in their order) and facts of a file of this `kind`; FileNotFoundError, ValueError otherwise."""
    expected = f"expected a file written by {kind}.save"
    if not os.path.isfile(path):
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise FileNotFoundError(f"{expected}, got {os.fspath(path)!r}, which {found}")
    facts, tensors = load_tensors(path, f"gdrop_viz.{kind}", remedy="make it again and save it anew")
    if not facts:
        raise DamagedFile(f"{expected}, got {os.fspath(path)!r}, which is something else; name another file")
    try:
        return {name: tensors[name] for name in facts.pop("names")}, facts
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"{expected}, got {os.fspath(path)!r} without {error}; make it again") from None
