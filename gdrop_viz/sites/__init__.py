"""Dropout sites: where a model really drops, and what sets the rate."""

from gdrop_viz.sites.measured import measured_dropout
from gdrop_viz.sites.sites import DropoutSite, dropout_sites

__all__ = [
    "DropoutSite",
    "dropout_sites",
    "measured_dropout",
]
