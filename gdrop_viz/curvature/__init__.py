"""Curvature: the Hessian of the loss as an operator; spectrum, trace, density, by sequence."""

from gdrop_viz.curvature.density import SpectralDensity, hessian_density
from gdrop_viz.curvature.hessian import Hessian
from gdrop_viz.curvature.sequences import SequenceCurvature, sequence_curvature
from gdrop_viz.curvature.spectrum import HessianSpectrum, hessian_spectrum
from gdrop_viz.curvature.trace import HessianTrace, hessian_trace

__all__ = [
    "Hessian",
    "HessianSpectrum",
    "HessianTrace",
    "SequenceCurvature",
    "SpectralDensity",
    "hessian_density",
    "hessian_spectrum",
    "hessian_trace",
    "sequence_curvature",
]
