"""The old home of `gdrop_viz.plots.finetuning`: where `plots.comparison` is looked up until that list names the new one."""

from gdrop_viz.plots.finetuning import comparison, paired_differences, training_curves

__all__ = ["comparison", "paired_differences", "training_curves"]
