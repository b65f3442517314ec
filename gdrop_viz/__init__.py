"""gdrop_viz: see where a pretrained language model keeps its information, and what to do with it.

The public names load when they are first used, so that `import gdrop_viz` is quick.
"""

from __future__ import annotations

from gdrop_viz._lazy import lazy_names

__version__ = "0.1.0"

_HOME = {
    "load_pretrained": "pretrained",
    "Pretrained": "pretrained",
    "pretraining_batches": "corpora",
    "Batches": "corpora",
    "sequence_losses": "objectives",
    "completions": "completion",
    "fisher_information": "fisher",
    "Fisher": "fisher",
    "top_k": "landscape",
    "bottom_k": "landscape",
    "random_k": "landscape",
    "Selection": "landscape",
    "random_direction": "landscape",
    "Direction": "landscape",
    "loss_surface": "landscape",
    "Surface": "landscape",
    "select": "landscape",
    "gradient_direction": "landscape",
    "difference_direction": "landscape",
    "orthogonalized": "landscape",
    "loss_surfaces": "landscape",
    "proposed_extent": "landscape",
    "loss_line": "landscape",
    "project_trajectory": "landscape",
    "trajectory_directions": "landscape",
    "hessian_spectrum": "landscape",
    "hessian_trace": "landscape",
    "hessian_density": "landscape",
    "sequence_curvature": "landscape",
    "LandscapeFindings": "landscape",
    "measure_landscape": "landscape",
    "dropout_sites": "dropout",
    "DropoutSite": "dropout",
    "guided_dropout": "dropout",
    "uniform_dropout": "dropout",
    "DropoutSchedule": "dropout",
    "measured_dropout": "dropout",
    "gaussian_dropout": "dropout",
    "load_task": "tasks",
    "Task": "tasks",
    "compare": "finetuning",
    "fine_tune": "finetuning",
    "Comparison": "finetuning",
    "GaussianArm": "finetuning",
    "WeightDecayArm": "finetuning",
    "FisherExplorer": "widgets",
    "LandscapeExplorer": "widgets",
    "DropoutLab": "widgets",
    "plots": "",
}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
