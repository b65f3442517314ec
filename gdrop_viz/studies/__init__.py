"""The long experiments behind the findings."""

from gdrop_viz.studies.landscape import measure_landscape
from gdrop_viz.studies.landscape_findings import LandscapeFindings

__all__ = ["LandscapeFindings", "measure_landscape"]
