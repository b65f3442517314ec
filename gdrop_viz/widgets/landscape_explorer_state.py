"""Settings of the LandscapeExplorer with the surfaces known so far and the code that follows, without a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.landscape.picture import cuts_picture, missing_picture, surface_picture
from gdrop_viz.plots.landscape.scale import LossScale
from gdrop_viz.plots.picture import Picture

if TYPE_CHECKING:
    from torch import nn

    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape import Surface
    from gdrop_viz.perturbation import Direction

KINDS = ("top", "random", "bottom", "all")
BY = ("element", "tensor", "layer", "component")
NORMALIZATIONS = ("filter", "tensor", "none")
FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5)


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
        return [self._picture(label) for label in labels]

    def cross_section(self, cursor: Sequence[int]) -> Picture:
        """The loss along both axes through the grid point under the cursor, by default the centre."""
        known = {_title(label): surface for label, surface in self._known.items()}
        return cuts_picture(known, self._scale, cursor, self.radius)

    def _picture(self, label: str) -> Picture:
        surface = self._known.get(label)
        if surface is None or self._scale is None:
            return missing_picture(_title(label), self.radius)
        return surface_picture(surface, self._scale, title=_title(label))

    @property
    def _known(self) -> dict[str, Surface]:
        """The panels' surfaces, as far as they are known."""
        return {at: self.surfaces[at] for at in self.panels if at in self.surfaces and self.surfaces[at].n_evaluated}

    @property
    def _scale(self) -> LossScale | None:
        """One colour scale for all panels, None where no finite loss is known; a logarithm needs losses above 0."""
        known = list(self._known.values())
        finite = np.concatenate([one.loss[np.isfinite(one.loss)] for one in known]) if known else np.array([])
        return LossScale.of(known, log=self.log and bool((finite > 0).all())) if len(finite) else None


def _title(label: str) -> str:
    return label.split(",")[0]
