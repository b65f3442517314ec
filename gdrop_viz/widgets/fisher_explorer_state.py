"""What has a person chosen in the FisherExplorer, and which pictures follow from it? No widget, no drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import instance
from gdrop_viz.fisher import Fisher
from gdrop_viz.plots.fisher import fisher_groups, fisher_places
from gdrop_viz.widgets.picture import Axis, Cells, Picture, Series

if TYPE_CHECKING:
    import pandas as pd

ALL = "all models"
GROUPINGS = ("layer", "component", "tensor")
TOP_FRACTIONS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
_DEPTH = 1e-9  # how far below the maximum a logarithmic axis goes at most
_Z = 1.96  # half-width of a 95 % interval in standard errors


@dataclass
class FisherExplorerState:
    """The choices of the explorer and the pictures that follow.

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
    _tables: dict[tuple, pd.DataFrame] = field(default_factory=dict, repr=False)

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
        """The measure along the depth, with 95 % intervals where they are known."""
        named, series, sentences, values = self.shown, [], [], []
        for k, (name, fisher) in enumerate(named.items()):
            table = self._grouped(name, fisher)
            y, error = _finite(table[self.measure]), np.full(len(table), np.nan)
            if self.measure == "mean":
                error = _Z * table["standard error"].to_numpy(dtype=float)
            if self.normalize and y.max() > 0:
                error, y = error / y.max(), y / y.max()
            many = len(named) > 1
            x = np.arange(len(y)) / max(len(y) - 1, 1) if many else np.arange(len(y))
            known = bool(np.isfinite(error).any())
            details = [f"{name}, {group}" for group in table.index]
            low, high = (y - error, y + error) if known else (None, None)
            series.append(Series(name, x, y, low=low, high=high, style=k, marker=len(y) < 60, details=details))
            first, last = int(np.argmax(y)), int(np.argmin(y))
            highest, lowest = (f"{table.index[at]} ({y[at]:.3g})" for at in (first, last))
            sentences.append(f"{name}: highest in {highest}, lowest in {lowest}")
            values += list(y) + ([*low, *high] if known else [])
        one = len(named) == 1
        groups = list(self._grouped(*next(iter(named.items()))).index)
        ticks = [(k, _short(str(group))) for k, group in enumerate(groups)] if one and self.by != "tensor" else None
        span = (-0.5, len(groups) - 0.5) if one else (-0.03, 1.03)
        label = f"{self.by} (in the model's order)" if one else f"relative depth ({self.by}s)"
        unit = f"{self._measure_name().split(' (')[0]} / max." if self.normalize else self._measure_name()
        return Picture(
            title=f"Fisher information by {self.by}",
            summary="; ".join(sentences) + ".",
            x=Axis(label, span, ticks=ticks),
            y=_value_axis(unit, values, log=self.log),
            series=tuple(series),
        )

    def heatmap(self) -> Picture:
        """The measure by layer and component."""
        name, fisher = next(iter(self.shown.items()))
        places = self._kept(("places", name), lambda: fisher_places(fisher))[self.measure]
        if self.normalize and places.max() > 0:
            places = places / places.max()
        best = places.idxmax()
        unit = f"{self._measure_name().split(' (')[0]} / max." if self.normalize else self._measure_name()
        summary = f"{name}: the largest value is {places.max():.3g}, in {_place(*best)}."
        return _place_picture(places.unstack(), f"By place: {name}", unit, summary, log=self.log)

    def concentration(self) -> Picture:
        """Which share of the information the highest-scoring parameters carry."""
        series, sentences, smallest = [], [], 1.0
        for k, (name, fisher) in enumerate(self.shown.items()):
            curve = self._kept(("concentration", name), fisher.concentration)
            x, y = curve["parameters"].to_numpy(), curve["information"].to_numpy()
            carried = float(np.interp(self.top, x, y))
            whole = "" if fisher.scores is not None else " (whole tensors)"
            sentences.append(
                f"{name}{whole}: the top {100 * self.top:g} % of the parameters carry {100 * carried:.3g} % of the "
                f"information; Gini coefficient {curve.attrs['gini']:.3f}"
            )
            smallest = min(smallest, x[x > 0].min())
            seen = slice(1, None) if self.log else slice(None)
            series.append(Series(name, x[seen], y[seen], style=k, marker=False))
            mark = f"{name}, top {100 * self.top:g} %"
            series.append(Series(mark, [self.top], [carried], style=k, line=False, in_legend=False))
        even = np.geomspace(smallest, 1, 60) if self.log else np.array([0.0, 1.0])
        series.append(Series("spread evenly", even, even, style=6, marker=False))
        bounds = (float(smallest), 1.0) if self.log and smallest < 1 else (0.0, 1.0)
        return Picture(
            title="Concentration",
            summary=". ".join(sentences) + ".",
            x=Axis("share of parameters, highest first", bounds, log=self.log and smallest < 1),
            y=Axis("share of the information", (0.0, 1.02)),
            series=tuple(series),
        )

    def locator(self) -> Picture:
        """Where the top share of the parameters lies, by layer and component."""
        name, fisher = next(iter(self.shown.items()))
        title = f"Where the top {100 * self.top:g} % lie: {name}"
        if fisher.scores is None:
            return Picture(
                title,
                'The locator needs a score per parameter: estimate with resolution="element".',
                Axis("component", (0.0, 1.0), ticks=()),
                Axis("layer", (0.0, 1.0), ticks=()),
            )
        places = self._kept(("located", name, self.top), lambda: fisher.located(self.top))
        order = fisher_places(fisher).index  # layers and components in the model's order
        share = places["of the top"].reindex(order.to_flat_index().map(tuple)).set_axis(order)
        most = share[share >= 0.005].sort_values(ascending=False).head(3)
        where = ", ".join(f"{100 * value:.0f} % in {_place(*place)}" for place, value in most.items())
        return _place_picture(share.unstack(), title, "share of the top", f"{name}: {where}.", log=False)

    def stability(self) -> Picture:
        """How well the order of the places agrees between two texts, against the number of sequences."""
        series, sentences, longest = [], [], 4
        for k, (name, fisher) in enumerate(self.shown.items()):
            if len(fisher.history) < 4:
                sentences.append(f"{name}: no record of single sequences, so nothing is known of its stability")
                continue
            table = self._kept(("stability", name), fisher.stability)
            series.append(
                Series(name, table["sequences"], table["agreement"], low=table["low"], high=table["high"], style=k)
            )
            last = table.iloc[-1]
            longest = max(longest, int(last["sequences"]))
            sentences.append(
                f"{name}: two texts of {last['sequences']:.0f} sequences would agree on the order of the places with a "
                f"rank correlation of {last['agreement']:.3f} (95 % interval {last['low']:.3f} to {last['high']:.3f})"
            )
        lowest = min((value for one in series for value in one.low), default=0.0)
        bottom = min(0.9, np.floor(10 * lowest) / 10)  # no bars: the axis need not start at zero
        return Picture(
            title="Stability of the order",
            summary=". ".join(sentences) + ".",
            x=Axis("sequences", (3.5, longest * 1.1), log=True),
            y=Axis("rank correlation", (bottom, 1.0 + 0.02 * (1.0 - bottom))),
            series=tuple(series),
        )

    def _grouped(self, name: str, fisher: Fisher) -> pd.DataFrame:
        return self._kept(("grouped", name, self.by), lambda: fisher_groups(fisher, self.by))

    def _kept(self, key: tuple, compute) -> pd.DataFrame:
        """Each table is computed once: choosing again what was shown before answers at once."""
        if key not in self._tables:
            self._tables[key] = compute()
        return self._tables[key]

    def _measure_name(self) -> str:
        names = {"mean": "mean score", "weighted mean": "score per parameter"}
        return "share of all" if self.measure == "share" else f"{names[self.measure]} (nats²/unit²)"


def _place_picture(table: pd.DataFrame, title: str, unit: str, summary: str, *, log: bool) -> Picture:
    """A table with layers as rows and components as columns as coloured cells, the first layer on top."""
    values = table.to_numpy(dtype=float)
    rows, columns = values.shape
    axis = _value_axis(unit, values[np.isfinite(values)], log=log)
    names = [str(layer) for layer in table.index]
    return Picture(
        title=title,
        summary=summary,
        x=Axis("component", (-0.5, columns - 0.5), ticks=[(k, _short(str(c))) for k, c in enumerate(table.columns)]),
        y=Axis("layer", (-0.5, rows - 0.5), ticks=[(rows - 1 - k, _short(name)) for k, name in enumerate(names)]),
        cells=Cells(np.arange(columns), np.arange(rows), values[::-1].T, label=unit, bounds=axis.bounds, log=axis.log),
    )


def _value_axis(label: str, values, *, log: bool) -> Axis:
    """An axis with room for all values; logarithmic if asked and possible."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if log and len(positive):
        # scores that are zero but for rounding (key biases: softmax ignores a constant) would squeeze all the others
        low = max(float(positive.min()), _DEPTH * float(positive.max()))
        return Axis(label, (low / 1.5, float(positive.max()) * 1.5), log=True)
    return Axis(label, (0.0, float(values.max()) * 1.05 if len(positive) else 1.0))


def _finite(column: pd.Series) -> np.ndarray:
    return np.nan_to_num(column.to_numpy(dtype=float))


def _place(layer: str, component: str) -> str:
    return component if layer == component else f"{component} of {layer}"


def _short(name: str) -> str:
    return {"embedding": "emb.", "attention": "attn.", "feed-forward": "ff."}.get(name, name.removeprefix("layer "))
