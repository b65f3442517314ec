"""Fingerprint of a surface: digests of all that determines its numbers, so that a file goes on only with the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from gdrop_viz.base.digest import Undigestible, digest
from gdrop_viz.landscape.evaluation import Metric
from gdrop_viz.models.digest import model_digest
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.directions import Direction


def fingerprint(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    axes: Sequence[np.ndarray],
    metrics: Mapping[str, Metric],
    loss: Loss | None,
    version: str | None,
) -> dict[str, Any]:
    """Return what determines a surface but its directions: weights and code of the model, text, grid, functions.

    `version` stands for functions whose content cannot be read. Raises ValueError if there are any and it is None.
    """
    return {
        "model": model_digest(model),
        "text": digest(list(batches)),
        "grid": [axis.tolist() for axis in axes],
        "metrics": {name: _of_function(metric, f"metrics[{name!r}]", version) for name, metric in metrics.items()},
        "loss": None if loss is None else _of_function(loss, "loss=", version),
        "version": version,
    }


def of_directions(directions: Sequence[Direction]) -> list[str]:
    """Return the digest of each direction's vectors."""
    return [digest(dict(direction.vectors)) for direction in directions]


def check_same(path: Path, there: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raise ValueError, naming what differs, unless the file at `path` was written by the same computation."""
    if there is None:
        raise ValueError(
            f"expected {os.fspath(path)!r} to be a surface of this computation, got a file from elsewhere; "
            "give another path"
        )
    changed = [name for name in now if there.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"expected {os.fspath(path)!r} to continue the same computation, got a file with other "
            f"{', '.join(changed)}; give another path, or move that file away to compute the surface anew"
        )


def _of_function(function: Any, what: str, version: str | None) -> str:
    try:
        return digest(function)
    except Undigestible as error:
        if version is not None:
            return getattr(function, "__qualname__", type(function).__qualname__)
        raise ValueError(
            f"expected {what} as a function whose code and data can be read, so that the file goes on with the "
            f"same one only, but {error}; give version=, a text that you change whenever the function changes"
        ) from None
