"""gdrop_viz: see where a pretrained language model keeps its information, and what to do with it.

The public names load when they are first used, so that `import gdrop_viz` is quick.
"""

from __future__ import annotations

from gdrop_viz.base.lazy import lazy_names

__version__ = "0.1.0"

_HOME = {
    "load_pretrained": "models.pretrained",
    "Pretrained": "models.pretrained",
    "pretraining_batches": "text.batches",
    "Batches": "text.batches",
    "sequence_losses": "models.losses",
    "completions": "text.completions",
    "fisher_information": "fisher",
    "Fisher": "fisher",
    "top_k": "perturbation",
    "bottom_k": "perturbation",
    "random_k": "perturbation",
    "Selection": "perturbation",
    "random_direction": "perturbation",
    "Direction": "perturbation",
    "loss_surface": "landscape",
    "Surface": "landscape",
    "select": "perturbation",
    "gradient_direction": "perturbation",
    "difference_direction": "perturbation",
    "orthogonalized": "perturbation",
    "loss_surfaces": "landscape",
    "proposed_extent": "landscape",
    "loss_line": "landscape",
    "project_trajectory": "landscape",
    "trajectory_directions": "landscape",
    "hessian_spectrum": "curvature",
    "hessian_trace": "curvature",
    "hessian_density": "curvature",
    "sequence_curvature": "curvature",
    "Hessian": "curvature",
    "LandscapeFindings": "studies.landscape_findings",
    "measure_landscape": "studies.landscape",
    "dropout_sites": "sites",
    "DropoutSite": "sites",
    "guided_dropout": "dropout",
    "uniform_dropout": "dropout",
    "DropoutSchedule": "dropout",
    "measured_dropout": "sites",
    "gaussian_dropout": "dropout",
    "load_task": "text.tasks",
    "Task": "text.task",
    "compare": "finetuning",
    "fine_tune": "finetuning",
    "Comparison": "finetuning",
    "GaussianArm": "finetuning",
    "WeightDecayArm": "finetuning",
    "EWCArm": "finetuning",
    "SparseArm": "finetuning",
    "FrozenArm": "finetuning",
    "MixoutArm": "finetuning",
    "FisherExplorer": "widgets",
    "LandscapeExplorer": "widgets",
    "DropoutLab": "widgets",
    "WordsExplorer": "widgets",
    "plots": "",
}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
