"""How are the Hessian's eigenvalues spread? Their density, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gdrop_viz.base.checks import instance
from gdrop_viz.plots.landscape.page import axes_or_new, ink, looks
from gdrop_viz.plots.landscape.words import titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.curvature.density import SpectralDensity


def spectral_density(density: SpectralDensity, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the density of the Hessian's eigenvalues on a logarithmic scale; band: lowest to highest of the probes."""
    from gdrop_viz.curvature.density import SpectralDensity

    instance(density, SpectralDensity, "density", "hessian_density")
    ax = axes_or_new(ax)
    frame = density.to_frame()
    (color, _), *_ = looks(1)
    x = frame["eigenvalue"].to_numpy()
    ax.plot(x, frame["density"], color=color)
    ax.fill_between(x, frame["minimum"], frame["maximum"], color=color, alpha=0.25, linewidth=0)
    ax.set_yscale("log")
    # where the smoothing kernel has died away the curve says nothing
    ax.set_ylim(frame["density"].max() * 1e-8, frame["density"].max() * 3)
    ax.axvline(0, color=ink(), linewidth=0.6, alpha=0.5)
    ax.set(xlabel="eigenvalue of the Hessian (nats)", ylabel="density")
    note = f"{density.n_probes} probes x {density.n_steps} Lanczos steps, smoothed by σ = {density.sigma:.3g}"
    titled(ax, title if title is not None else f"Spectral density over {density.label}", note)
    return ax
