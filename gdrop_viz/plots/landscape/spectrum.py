"""Plot of the density of the Hessian's eigenvalues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gdrop_viz.base.checks import instance
from gdrop_viz.plots.picture import Axis, Picture, Reference, Series
from gdrop_viz.plots.render import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.curvature.density import SpectralDensity


def spectral_density(density: SpectralDensity, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the density of the Hessian's eigenvalues on a logarithmic scale; band: lowest to highest of the probes.

    Parameters
    ----------
    density
        What `gv.hessian_density` returned.
    ax
        Axes to draw on; by default new ones.
    title
        By default it names the parameters.

    Returns
    -------
    Axes
    """
    from gdrop_viz.curvature.density import SpectralDensity

    return draw(density_picture(instance(density, SpectralDensity, "density", "hessian_density"), title), ax)


def density_picture(density: SpectralDensity, title: str | None = None) -> Picture:
    """Picture of `spectral_density`."""
    frame = density.to_frame()
    x, y, low, high = frame[["eigenvalue", "density", "minimum", "maximum"]].to_numpy(dtype=float).T
    return Picture(
        title=title if title is not None else f"Spectral density over {density.label}",
        summary=f"Eigenvalues between {x.min():.3g} and {x.max():.3g}; the density is highest at {x[y.argmax()]:.3g}.",
        x=Axis.around("eigenvalue of the Hessian (nats)", x),
        # where the smoothing kernel has died away the curve says nothing
        y=Axis("density", (y.max() * 1e-8, y.max() * 3), log=True),
        series=(Series("density", x, y, low, high, marker=False, in_legend=False),),
        references=(Reference("x", 0.0),),
        note=f"{density.n_probes} probes x {density.n_steps} Lanczos steps, smoothed by σ = {density.sigma:.3g}",
    )
