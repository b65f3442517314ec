"""Loss surfaces and paths."""

from gdrop_viz.landscape.extent import proposed_extent
from gdrop_viz.landscape.paths import LossLine, Trajectory, loss_line, project_trajectory, trajectory_directions
from gdrop_viz.landscape.surface import Surface
from gdrop_viz.landscape.sweep import SurfacePoint, loss_surface, loss_surfaces

__all__ = [
    "LossLine",
    "Surface",
    "SurfacePoint",
    "Trajectory",
    "loss_line",
    "loss_surface",
    "loss_surfaces",
    "project_trajectory",
    "proposed_extent",
    "trajectory_directions",
]
