"""What has a person chosen in the LandscapeExplorer, and which surfaces, pictures and call follow? No widget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.widgets.picture import Axis, Cells, Picture, Series

if TYPE_CHECKING:
    from torch import nn

    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape import Surface
    from gdrop_viz.perturbation import Direction

KINDS = ("top", "random", "bottom", "all")
BY = ("element", "tensor", "layer", "component")
NORMALIZATIONS = ("filter", "tensor", "none")
FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5)
_LOSS = "loss (nats)"


@dataclass
class LandscapeExplorerState:
    """The settings of the explorer, the surfaces known so far, and what follows from both.

    `left` and `right` say which parameters each panel moves: the "top", "bottom" or a "random" fraction `k` of the
    units `by`, or "all". `radius` is in multiples of the normalised directions; with `same_distance` the right
    panel's directions have the norm of the left's. `surfaces` holds what was computed or loaded, by label.
    """

    folder: Path
    left: str = "top"
    right: str = "random"
    k: float = 0.01
    by: str = "element"
    seed: int = 0
    normalize: str = "filter"
    same_distance: bool = False
    radius: float = 1.0
    points: int = 21
    log: bool = False
    surfaces: dict[str, Surface] = field(default_factory=dict, repr=False)
    computing: set[str] = field(default_factory=set, repr=False)

    @property
    def panels(self) -> tuple[str, ...]:
        """The labels of the panels, left to right; one only if both would show the same."""
        return tuple(dict.fromkeys(self._label(kind) for kind in (self.left, self.right)))

    def _label(self, kind: str) -> str:
        """Everything that determines a surface of this model and text, in words."""
        what = "all parameters" if kind == "all" else f"{kind} {100 * self.k:g} % of {self.by}s"
        grid = f"radius {self.radius:g}, {self.points} points, {self.normalize} normalised, seed {self.seed}"
        distance = ""
        if self.same_distance and kind != self.left:
            distance = f", at the distance of {self.left}"
        return f"{what}, {grid}{distance}"

    def find(self) -> None:
        """Load the surfaces of the panels that are on disk, whole or in part."""
        from gdrop_viz.landscape import Surface
        from gdrop_viz.landscape.surface import surface_path

        for label in self.panels:
            if label in self.surfaces or label in self.computing:
                continue  # a file that is being written is not read: its points arrive by themselves
            path = surface_path(self.folder, label)
            if path.is_file():
                self.surfaces[label] = Surface.load(path)

    def missing(self) -> list[str]:
        """The panels whose surfaces are not complete yet."""
        return [label for label in self.panels if label not in self.surfaces or not self.surfaces[label].is_complete]

    def planes(self, model: nn.Module, fisher: Fisher) -> dict[str, list[Direction]]:
        """The two directions of each panel, by label."""
        from gdrop_viz.perturbation import bottom_k, random_direction, random_k, top_k

        select = {
            "top": lambda: top_k(fisher, self.k, by=self.by),
            "bottom": lambda: bottom_k(fisher, self.k, by=self.by),
            "random": lambda: random_k(model, self.k, by=self.by, seed=self.seed),
            "all": lambda: None,
        }
        planes: dict[str, list[Direction]] = {}
        norms: Sequence[float | None] = (None, None)
        for kind in dict.fromkeys((self.left, self.right)):
            selection = select[kind]()
            planes[self._label(kind)] = [
                random_direction(
                    model, seed=seed, normalize=self.normalize, selection=selection, move_vectors=False, norm=norm
                )
                for seed, norm in zip(self._direction_seeds(), norms, strict=True)
            ]
            if self.same_distance:
                norms = [direction.norm for direction in planes[self._label(self.left)]]
        return planes

    def _direction_seeds(self) -> tuple[int, int]:
        return 2 * self.seed, 2 * self.seed + 1

    def as_code(self) -> str:
        """The calls that compute the same surfaces; `lm`, `fisher` and `batches` are what the explorer was given."""
        select = {
            "top": f"gv.top_k(fisher, {self.k!r}, by={self.by!r})",
            "bottom": f"gv.bottom_k(fisher, {self.k!r}, by={self.by!r})",
            "random": f"gv.random_k(lm.model, {self.k!r}, by={self.by!r}, seed={self.seed})",
            "all": "None",
        }
        kinds = list(dict.fromkeys((self.left, self.right)))
        chosen = "".join(f"    {self._label(kind)!r}: {select[kind]},\n" for kind in kinds)
        lines = [
            "import gdrop_viz as gv",
            f"selections = {{\n{chosen}}}",
            "surfaces, norms = {}, (None, None)",
            "for label, selection in selections.items():",
            "    directions = [",
            "        gv.random_direction(",
            f"            lm.model, seed=seed, normalize={self.normalize!r}, selection=selection, norm=norm",
            "        )",
            f"        for seed, norm in zip({self._direction_seeds()}, norms)",
            "    ]",
        ]
        if self.same_distance:
            lines.append("    norms = norms if norms[0] else [direction.norm for direction in directions]")
        lines += [
            "    surfaces[label] = gv.loss_surface(",
            f"        lm.model, batches, directions, extent={self.radius!r}, points={self.points}, label=label",
            "    )",
            "gv.plots.compare_surfaces(surfaces)",
        ]
        return "\n".join(lines) + "\n"

    # ---- pictures ----------------------------------------------------------------------------------------------

    def pictures(self) -> list[Picture]:
        """One picture per panel (the second is repeated if there is one label), at one colour scale."""
        labels = self.panels if len(self.panels) == 2 else self.panels * 2
        bounds, log = self._bounds(labels)
        return [self._picture(label, bounds, log) for label in labels]

    def cross_section(self, cursor: Sequence[int]) -> Picture:
        """The loss along both axes through the grid point under the cursor, by default the centre."""
        known = {label: self.surfaces[label] for label in self.panels if label in self.surfaces}
        bounds, log = self._bounds(self.panels)
        series, place = [], "the centre"
        for k, (label, surface) in enumerate(known.items()):
            i, j = (
                min(at, size - 1) for at, size in zip(cursor or self._centre(surface), surface.loss.shape, strict=True)
            )
            place = f"x = {surface.x[i]:.3g}, y = {surface.y[j]:.3g}"
            losses = _coarse(surface)
            name = label.split(",")[0]
            series.append(Series(f"{name}, along x", surface.x, losses[:, j], style=k, marker=False))
            series.append(Series(f"{name}, along y", surface.y, losses[i], style=k + 4, marker=False))
        return Picture(
            title=f"Cross-sections through {place}",
            summary="Move over a surface, or focus it and use the arrow keys, to cut elsewhere.",
            x=Axis("multiples of the direction", (-self.radius, self.radius)),
            y=Axis(_LOSS, bounds, log=log),
            series=tuple(series),
        )

    def _picture(self, label: str, bounds: tuple[float, float], log: bool) -> Picture:
        span = self.radius * self.points / (self.points - 1)  # half a cell beyond the outermost points
        axes = [Axis(f"multiples of direction {axis}", (-span, span)) for axis in "xy"]
        title = label.split(",")[0]
        surface = self.surfaces.get(label)
        if surface is None or not surface.n_evaluated:
            return Picture(title, "Not computed yet: press Run.", *axes)
        norms = ", ".join(f"{direction['norm']:.3g}" for direction in surface.metadata.get("directions", []))
        texts = [f"{surface.n_evaluated} of {surface.n_points} points"]
        if surface.n_sequences:
            texts.append(f"each the mean of {surface.n_sequences} sequences")
        if norms:
            texts.append(f"norms of the directions {norms}")
        clipped = int((surface.loss[surface.evaluated] > bounds[1]).sum())
        if clipped:
            texts.append(f"{clipped} points above {bounds[1]:.3g} drawn at that level")
        if surface.n_diverged:
            texts.append(f"{surface.n_diverged} diverged")
        rise = f"centre {surface.centre_loss:.4g} nats; " if np.isfinite(surface.centre_loss) else ""
        cells = Cells(surface.x, surface.y, _coarse(surface), _LOSS, bounds, log=log)
        return Picture(title, f"{rise}{'; '.join(texts)}.", *axes, cells=cells)

    def _bounds(self, labels: Sequence[str]) -> tuple[tuple[float, float], bool]:
        """One colour scale for all panels: from the lowest to the highest finite loss known."""
        losses = [self.surfaces[label].loss for label in labels if label in self.surfaces]
        finite = np.concatenate([loss[np.isfinite(loss)] for loss in losses]) if losses else np.array([])
        if not len(finite):
            return (0.0, 1.0), False
        low, high = float(finite.min()), float(finite.max())
        if high - low < 1e-9:
            high = low + 1.0
        return (low, high), self.log and low > 0

    @staticmethod
    def _centre(surface: Surface) -> tuple[int, int]:
        return int(np.abs(surface.x).argmin()), int(np.abs(surface.y).argmin())


def _coarse(surface: Surface) -> np.ndarray:
    """The loss, with the nearest known point's in place of those not known yet: a picture that only gets sharper."""
    if surface.is_complete or not surface.n_evaluated:
        return surface.loss
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~surface.evaluated, return_distances=False, return_indices=True)
    return surface.loss[tuple(nearest)]
