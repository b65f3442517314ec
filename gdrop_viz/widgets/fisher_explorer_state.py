"""Choices of the FisherExplorer and the code that draws the same, without a view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gdrop_viz.base.checks import instance
from gdrop_viz.fisher import Fisher
from gdrop_viz.plots import fisher as plots
from gdrop_viz.plots.picture import Picture

ALL = "all models"
GROUPINGS = ("layer", "component", "tensor")
TOP_FRACTIONS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)


@dataclass
class FisherExplorerState:
    """The choices of the explorer; what it shows is made of them in `gdrop_viz.plots`.

    `model` is one of the names or `ALL`; the heatmap and the locator then show the first one. `by` is the grouping of
    the profile, `measure` what is shown of each group, `top` the share of the parameters to find.

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> FisherExplorerState({"gpt": fisher}, log=False).profile().summary
    'gpt: highest in layer 0 (2), lowest in layer 1 (1).'
    """

    fishers: Mapping[str, Fisher]
    model: str = ""
    by: str = "layer"
    measure: str = "mean"
    normalize: bool = False
    log: bool = True
    top: float = 0.01

    def __post_init__(self) -> None:
        if not self.fishers:
            raise ValueError("expected at least one Fisher result, got an empty mapping")
        for name, fisher in self.fishers.items():
            instance(fisher, Fisher, f"fisher {name!r}" if name else "fisher", "fisher_information")
        self.model = self.model or next(iter(self.fishers))

    @property
    def shown(self) -> dict[str, Fisher]:
        """The chosen models by name."""
        return dict(self.fishers) if self.model == ALL else {self.model: self.fishers[self.model]}

    def as_code(self) -> str:
        """The plain calls that draw the same; `fisher` (or `fishers`, by name) is what the explorer was given."""
        one = "fisher" if len(self.fishers) == 1 else f"fishers[{next(iter(self.shown))!r}]"
        several = "fishers" if self.model == ALL else one
        lines = [
            "import gdrop_viz as gv",
            f"gv.plots.fisher_profile({several}, by={self.by!r}, measure={self.measure!r}, "
            f"normalize={self.normalize}, log={self.log})",
            f"gv.plots.fisher_heatmap({one}, measure={self.measure!r}, log={self.log})",
            f"gv.plots.fisher_concentration({several}, log={self.log}, at={self.top!r})",
        ]
        settled = [name for name, fisher in self.shown.items() if len(fisher.history) >= 4]
        if next(iter(self.shown.values())).scores is not None:
            lines.append(f"{one}.located({self.top!r})")
        lines += [
            f"fishers[{name!r}].stability()" if len(self.fishers) > 1 else "fisher.stability()" for name in settled
        ]
        return "\n".join(lines) + "\n"

    def profile(self) -> Picture:
        """The measure along the depth."""
        return plots.profile_picture(
            self.shown, by=self.by, measure=self.measure, normalize=self.normalize, log=self.log, short=True
        )

    def heatmap(self) -> Picture:
        """The measure by layer and component."""
        name, fisher = self._first
        return plots.heatmap_picture(
            fisher, name=name, measure=self.measure, normalize=self.normalize, log=self.log, short=True
        )

    def concentration(self) -> Picture:
        """Which share of the information the highest-scoring parameters carry."""
        return plots.concentration_picture(self.shown, log=self.log, at=self.top, short=True)

    def locator(self) -> Picture:
        """Where the top share of the parameters lies, by layer and component."""
        name, fisher = self._first
        return plots.locator_picture(fisher, name=name, top=self.top, short=True)

    def stability(self) -> Picture:
        """How well the order of the places agrees between two texts."""
        return plots.stability_picture(self.shown)

    @property
    def _first(self) -> tuple[str, Fisher]:
        return next(iter(self.shown.items()))
