"""Dropout schedules guided by Fisher information, their controls, and Gaussian noise."""

from gdrop_viz.dropout.guided import guided_dropout
from gdrop_viz.dropout.noise import GaussianDropout, gaussian_dropout
from gdrop_viz.dropout.schedule import DropoutSchedule, uniform_dropout

__all__ = [
    "DropoutSchedule",
    "GaussianDropout",
    "gaussian_dropout",
    "guided_dropout",
    "uniform_dropout",
]
