"""Dropout sites of any transformer, schedules guided by Fisher information, and what is really applied."""

from gdrop_viz.dropout.guided import guided_dropout
from gdrop_viz.dropout.measure import measured_dropout
from gdrop_viz.dropout.noise import GaussianDropout, gaussian_dropout
from gdrop_viz.dropout.schedule import DropoutSchedule, uniform_dropout
from gdrop_viz.dropout.sites import DropoutSite, dropout_sites

__all__ = [
    "DropoutSchedule",
    "DropoutSite",
    "GaussianDropout",
    "dropout_sites",
    "gaussian_dropout",
    "guided_dropout",
    "measured_dropout",
    "uniform_dropout",
]
