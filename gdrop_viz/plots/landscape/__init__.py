"""Plots of loss surfaces: contours, 3-D sheets, cuts and radial means on one scale; spectra of the Hessian."""

from gdrop_viz.plots.landscape.contour import surface_contour
from gdrop_viz.plots.landscape.curves import surface_radial, surface_section
from gdrop_viz.plots.landscape.findings import fisher_beside_hessian, landscape_rises
from gdrop_viz.plots.landscape.panels import compare_surfaces
from gdrop_viz.plots.landscape.relief import surface_3d
from gdrop_viz.plots.landscape.spectrum import spectral_density

__all__ = [
    "compare_surfaces",
    "fisher_beside_hessian",
    "landscape_rises",
    "spectral_density",
    "surface_3d",
    "surface_contour",
    "surface_radial",
    "surface_section",
]
