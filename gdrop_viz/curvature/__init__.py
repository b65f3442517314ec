"""Curvature: the Hessian of the loss as an operator; spectrum, trace, density, by sequence."""

from gdrop_viz.curvature.density import SpectralDensity
from gdrop_viz.curvature.functions import hessian_density, hessian_spectrum, hessian_trace, sequence_curvature
from gdrop_viz.curvature.hessian import Hessian
from gdrop_viz.curvature.sequences import SequenceCurvature
from gdrop_viz.curvature.spectrum import HessianSpectrum
from gdrop_viz.curvature.trace import HessianTrace

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
