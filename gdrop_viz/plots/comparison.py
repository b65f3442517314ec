"""Where `plots.comparison` is looked up until the list of pictures names `gdrop_viz.plots.finetuning`."""

from gdrop_viz.plots.finetuning import comparison, paired_differences, training_curves

__all__ = ["comparison", "paired_differences", "training_curves"]
