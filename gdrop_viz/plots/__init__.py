"""Pictures of the result objects: every function draws one result and computes none."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "fisher_profile": "fisher",
    "fisher_heatmap": "fisher",
    "fisher_concentration": "fisher",
    "surface_contour": "landscape",
    "surface_3d": "landscape",
    "compare_surfaces": "landscape",
    "surface_section": "landscape",
    "surface_radial": "landscape",
    "spectral_density": "landscape",
    "dropout_rates": "dropout",
    "comparison": "finetuning",
    "paired_differences": "finetuning",
    "training_curves": "finetuning",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gdrop_viz.plots' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    value = getattr(importlib.import_module(f"gdrop_viz.plots.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
