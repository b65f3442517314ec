"""Plots of the result objects: every function draws one result and computes none."""

from __future__ import annotations

from gdrop_viz.base.lazy import lazy_names

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
    "landscape_rises": "landscape",
    "fisher_beside_hessian": "landscape",
    "dropout_rates": "dropout",
    "comparison": "finetuning",
    "paired_differences": "finetuning",
    "training_curves": "finetuning",
}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
