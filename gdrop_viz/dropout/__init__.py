"""Dropout sites of any transformer, schedules guided by Fisher information, and what is really applied."""

from gdrop_viz.dropout.guided import guided_dropout
from gdrop_viz.dropout.measure import measured_dropout
from gdrop_viz.dropout.schedule import DropoutSchedule, uniform_dropout
from gdrop_viz.dropout.sites import DropoutSite, dropout_sites

__all__ = [
    "DropoutSchedule",
    "DropoutSite",
    "dropout_sites",
    "guided_dropout",
    "measured_dropout",
    "uniform_dropout",
]
