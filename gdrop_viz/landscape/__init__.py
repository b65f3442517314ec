"""What happens to the loss when chosen parameters move? Selections, directions, surfaces, curvature, paths."""

from gdrop_viz.landscape.directions import (
    Direction,
    difference_direction,
    gradient_direction,
    orthogonalized,
    random_direction,
)
from gdrop_viz.landscape.selection import Selection, bottom_k, random_k, select, top_k
from gdrop_viz.landscape.surface import Surface
from gdrop_viz.landscape.sweep import SurfacePoint, loss_surface, loss_surfaces, proposed_extent

__all__ = [
    "Direction",
    "Selection",
    "Surface",
    "SurfacePoint",
    "bottom_k",
    "difference_direction",
    "gradient_direction",
    "loss_surface",
    "loss_surfaces",
    "orthogonalized",
    "proposed_extent",
    "random_direction",
    "random_k",
    "select",
    "top_k",
]
