"""Fine-tuning: one run, and the comparison of arms over data fractions and seeds."""

from __future__ import annotations

from gdrop_viz.finetuning.arms import Arm, GaussianArm, WeightDecayArm
from gdrop_viz.finetuning.classifier import build_classifier
from gdrop_viz.finetuning.comparison import compare
from gdrop_viz.finetuning.events import Event
from gdrop_viz.finetuning.hyperparameters import Hyperparameters
from gdrop_viz.finetuning.random_effects import random_effects, summarize_studies
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.train import fine_tune
from gdrop_viz.finetuning.weight_arms import EWCArm, FrozenArm, MixoutArm, SparseArm

__all__ = [
    "Arm",
    "Comparison",
    "EWCArm",
    "Event",
    "FrozenArm",
    "GaussianArm",
    "Hyperparameters",
    "MixoutArm",
    "SparseArm",
    "WeightDecayArm",
    "build_classifier",
    "compare",
    "fine_tune",
    "random_effects",
    "summarize_studies",
]
