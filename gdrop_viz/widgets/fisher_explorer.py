"""Panel to look at Fisher scores by place, measure and scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import ipywidgets

from gdrop_viz.plots.fisher import MEASURES
from gdrop_viz.widgets.chart import Chart
from gdrop_viz.widgets.code_box import CodeBox
from gdrop_viz.widgets.fisher_explorer_state import ALL, GROUPINGS, TOP_FRACTIONS, FisherExplorerState
from gdrop_viz.widgets.panel import ROW_LABEL_STYLE, Panel, row

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher


class FisherExplorer(Panel):
    """Choose a model, a grouping and a scale; see profile, heatmap, concentration, place of the top scores, stability.

    Parameters
    ----------
    fisher
        One `Fisher`, or name -> `Fisher` for several models.

    `state` holds the choices and `state.as_code()` the plain calls that draw the same.

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> scores = pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0})
    >>> explorer = FisherExplorer(Fisher.from_means(scores))
    >>> explorer.profile_chart.picture.summary
    'model: highest in layer 0 (2), lowest in layer 1 (1).'
    """

    _given = ("state",)

    def __init__(self, fisher: Fisher | Mapping[str, Fisher]) -> None:
        super().__init__()
        named = dict(fisher) if isinstance(fisher, Mapping) else {_name_of(fisher): fisher}
        self.state = FisherExplorerState(named)
        models = [*named, ALL] if len(named) > 1 else list(named)
        self.model = ipywidgets.Dropdown(description="model", options=models, style=ROW_LABEL_STYLE)
        self.by = ipywidgets.Dropdown(description="group by", options=GROUPINGS, style=ROW_LABEL_STYLE)
        self.measure = ipywidgets.Dropdown(description="measure", options=list(MEASURES), style=ROW_LABEL_STYLE)
        tops = [(f"{100 * fraction:g} %", fraction) for fraction in TOP_FRACTIONS]
        self.top = ipywidgets.Dropdown(description="top", options=tops, value=self.state.top, style=ROW_LABEL_STYLE)
        self.normalize = ipywidgets.Checkbox(self.state.normalize, description="normalise to the maximum", indent=False)
        self.log_scale = ipywidgets.Checkbox(self.state.log, description="logarithmic", indent=False)
        self._controls = (self.model, self.by, self.measure, self.top, self.normalize, self.log_scale)
        for control in self._controls:
            control.layout.width = "auto"
            control.observe(self.guarded(lambda change: self._read_controls()), "value")
        self.profile_chart = Chart(self.state.profile())
        self.heatmap_chart = Chart(self.state.heatmap())
        self.concentration_chart = Chart(self.state.concentration())
        self.locator_chart = Chart(self.state.locator())
        self.stability_chart = Chart(self.state.stability(), height=200)
        self.code = CodeBox(code=self.state.as_code())
        charts = [self.profile_chart, self.heatmap_chart, self.concentration_chart, self.locator_chart]
        charts.append(self.stability_chart)
        self.compose(
            [
                ipywidgets.HBox(self._controls, layout={"flex_flow": "row wrap", "grid_gap": "0 14px"}),
                row((self.profile_chart, "1 1 340px"), (self.heatmap_chart, "1 1 340px")),
                row((self.concentration_chart, "1 1 340px"), (self.locator_chart, "1 1 340px")),
                self.stability_chart,
                self.code,
            ],
            charts=charts,
        )

    def _read_controls(self) -> None:
        state = self.state
        state.model, state.by, state.measure = self.model.value, self.by.value, self.measure.value
        state.top, state.normalize, state.log = self.top.value, self.normalize.value, self.log_scale.value
        self.profile_chart.show(state.profile())
        self.heatmap_chart.show(state.heatmap())
        self.concentration_chart.show(state.concentration())
        self.locator_chart.show(state.locator())
        self.stability_chart.show(state.stability())
        self.code.code = state.as_code()
        self.show_message("")


def _name_of(fisher: Fisher) -> str:
    return str(getattr(fisher, "metadata", {}).get("model") or "model")
