"""What happens to the loss when chosen parameters move? Selections, directions, surfaces, curvature, paths."""

from gdrop_viz.landscape.density import SpectralDensity, hessian_density
from gdrop_viz.landscape.directions import (
    Direction,
    difference_direction,
    gradient_direction,
    orthogonalized,
    random_direction,
)
from gdrop_viz.landscape.extent import proposed_extent
from gdrop_viz.landscape.findings import LandscapeFindings
from gdrop_viz.landscape.hessian import Hessian
from gdrop_viz.landscape.measuring import measure_landscape
from gdrop_viz.landscape.paths import LossLine, Trajectory, loss_line, project_trajectory, trajectory_directions
from gdrop_viz.landscape.ranking import bottom_k, random_k, select, top_k
from gdrop_viz.landscape.selection import Selection
from gdrop_viz.landscape.sequence_curvature import SequenceCurvature, sequence_curvature
from gdrop_viz.landscape.spectrum import HessianSpectrum, hessian_spectrum
from gdrop_viz.landscape.surface import Surface
from gdrop_viz.landscape.sweep import SurfacePoint, loss_surface, loss_surfaces
from gdrop_viz.landscape.trace import HessianTrace, hessian_trace

__all__ = [
    "Direction",
    "Hessian",
    "HessianSpectrum",
    "HessianTrace",
    "LandscapeFindings",
    "LossLine",
    "Selection",
    "SequenceCurvature",
    "SpectralDensity",
    "Surface",
    "SurfacePoint",
    "Trajectory",
    "bottom_k",
    "difference_direction",
    "gradient_direction",
    "hessian_density",
    "hessian_spectrum",
    "hessian_trace",
    "loss_line",
    "loss_surface",
    "loss_surfaces",
    "measure_landscape",
    "orthogonalized",
    "project_trajectory",
    "proposed_extent",
    "random_direction",
    "random_k",
    "select",
    "sequence_curvature",
    "top_k",
    "trajectory_directions",
]
