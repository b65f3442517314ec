"""Perturbations: which parameters move, and which way."""

from gdrop_viz.perturbation.direction import Direction, orthogonalized
from gdrop_viz.perturbation.directions import difference_direction, gradient_direction, random_direction
from gdrop_viz.perturbation.ranking import bottom_k, random_k, select, top_k
from gdrop_viz.perturbation.selection import Selection

__all__ = [
    "Direction",
    "Selection",
    "bottom_k",
    "difference_direction",
    "gradient_direction",
    "orthogonalized",
    "random_direction",
    "random_k",
    "select",
    "top_k",
]
