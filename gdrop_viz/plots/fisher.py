"""Plots of Fisher information: its profile along depth, a heatmap by place, and its concentration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from gdrop_viz.base.checks import instance, one_of
from gdrop_viz.plots.picture import Axis, Cells, Picture, Series
from gdrop_viz.plots.render import draw

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gdrop_viz.fisher import Fisher

MEASURES = {
    "mean": "mean score of the tensors (nats²/unit²)",
    "weighted mean": "mean score per parameter (nats²/unit²)",
    "share": "share of all information",
}
# half-width of a 95 % interval in standard errors of a mean over many sequences
_Z = 1.96
_MAX_NAMES = 40  # of tensors: more would run into one another
# what was computed of a result, so that a panel which comes back to it answers at once
_TABLES: WeakKeyDictionary[Fisher, dict[tuple, pd.DataFrame]] = WeakKeyDictionary()
_WHOLE_TENSORS: WeakKeyDictionary[Fisher, Fisher] = WeakKeyDictionary()


def fisher_profile(
    fisher: Fisher | Mapping[str, Fisher],
    *,
    by: str = "layer",
    measure: str = "mean",
    normalize: bool | None = None,
    log: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the Fisher information along the depth of one model, or of several on one axis.

    Parameters
    ----------
    fisher
        One result, or name -> result.
    by
        "layer", "component" or "tensor".
    measure
        "mean" (unweighted over the tensors, the paper's score of a module), "weighted mean" (per parameter) or "share".
    normalize
        Divide each profile by its maximum; the default does so for several models, whose scores have different scales.
    log
        Logarithmic scale: places differ by orders of magnitude.
    ax
        Axes to draw on; by default new ones.

    Returns
    -------
    Axes
        Error bars are 95 % intervals over sequences, where they are known ("mean" only). Several models share the axis
        by relative depth: 0 is the first group in the order of the model, 1 the last.

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> fisher_profile(fisher).get_ylabel()
    'mean score of the tensors (nats²/unit²)'
    """
    return draw(
        profile_picture(_named(fisher), by=by, measure=measure, normalize=normalize, log=log), ax, size=(7, 3.8)
    )


def fisher_heatmap(fisher: Fisher, *, measure: str = "mean", log: bool = True, ax: Axes | None = None) -> Axes:
    """Draw the Fisher information by layer (rows) and component (columns); places that do not exist stay blank.

    Parameters
    ----------
    fisher
        The result to draw.
    measure
        "mean", "weighted mean" or "share", as in `fisher_profile`.
    log
        Colours on a logarithmic scale; a zero has no logarithm and stays blank.
    ax
        Axes to draw on; by default new ones.

    Returns
    -------
    Axes

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> [label.get_text() for label in fisher_heatmap(fisher).get_xticklabels()]
    ['attention', 'feed-forward']
    """
    picture = heatmap_picture(*_named(fisher).values(), measure=measure, log=log)
    cells = picture.cells
    assert cells is not None  # of a heatmap
    return draw(picture, ax, size=(2.6 + 1.15 * len(cells.x), 1.8 + 0.36 * len(cells.y)))


def fisher_concentration(
    fisher: Fisher | Mapping[str, Fisher], *, log: bool = False, at: float | None = 0.01, ax: Axes | None = None
) -> Axes:
    """Draw which share of the information the highest-scoring parameters carry, with the Gini coefficient.

    Parameters
    ----------
    fisher
        One result, or name -> result. At tensor resolution whole tensors are taken, which understates it.
    log
        Logarithmic axis of the share of parameters, to see the first per mille.
    at
        Mark this share of the parameters; None for no mark.
    ax
        Axes to draw on; by default new ones.

    Returns
    -------
    Axes

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> fisher_concentration(fisher).get_xlabel()
    'share of parameters, highest scores first'
    """
    return draw(concentration_picture(_named(fisher), log=log, at=at), ax, size=(5.4, 4.2))


def profile_picture(
    fishers: Mapping[str, Fisher],
    *,
    by: str = "layer",
    measure: str = "mean",
    normalize: bool | None = None,
    log: bool = True,
    short: bool = False,
) -> Picture:
    """Picture of `fisher_profile`; `short` abbreviates the names of the places."""
    one_of(measure, MEASURES, "measure")
    many = len(fishers) > 1
    normalize = many if normalize is None else normalize
    series, sentences, shown = [], [], [0.0]
    for k, (name, fisher) in enumerate(fishers.items()):
        table = _groups(fisher, by)
        groups = [str(group) for group in table.index]
        values = np.nan_to_num(table[measure].to_numpy(dtype=float))
        errors = np.full(len(values), np.nan)
        if measure == "mean":
            errors = _Z * table["standard error"].to_numpy(dtype=float)
        scale = values.max() if normalize and values.max() > 0 else 1.0
        values, errors = values / scale, errors / scale
        x = np.arange(len(values)) / max(len(values) - 1, 1) if many else np.arange(len(values))
        known = bool(np.isfinite(errors).any())
        low, high = (values - errors, values + errors) if known else (None, None)
        series.append(
            Series(
                name, x, values, low, high, style=k, bars=True, marker=len(values) < 60, in_legend=bool(name),
                details=[f"{name}, {group}" if name else group for group in groups],
            )
        )  # fmt: skip
        top, bottom = (f"{groups[at]} ({values[at]:.3g})" for at in (int(values.argmax()), int(values.argmin())))
        sentences.append(_prefix(name) + f"highest in {top}, lowest in {bottom}")
        shown += [*values, *(values - errors), *(values + errors)]
    named = [(k, _short(group) if short else group) for k, group in enumerate(groups)]
    return Picture(
        title=f"Fisher information by {by}",
        summary="; ".join(sentences) + ".",
        x=Axis(f"relative depth ({by}s in the model's order)", (-0.03, 1.03))
        if many
        else Axis(by, (-0.5, len(groups) - 0.5), ticks=named if len(groups) <= _MAX_NAMES else None),
        y=_value_axis(_measure_label(measure, normalize), shown, log=log),
        series=tuple(series),
        note=_facts(fishers),
    )


def heatmap_picture(
    fisher: Fisher,
    *,
    name: str = "",
    measure: str = "mean",
    normalize: bool = False,
    log: bool = True,
    short: bool = False,
) -> Picture:
    """Picture of `fisher_heatmap`; `short` abbreviates the names of the places."""
    one_of(measure, MEASURES, "measure")
    places = _places(fisher)[measure]
    if normalize and places.max() > 0:
        places = places / places.max()
    best = places.index.to_list()[int(places.argmax())]
    sentence = f"the largest value is {places.max():.3g}, in {_place(*best)}."
    return _place_picture(
        places.unstack(),
        f"By place: {name}" if name else "Fisher information by place",
        _measure_label(measure, normalize),
        f"{name}: {sentence}" if name else sentence.capitalize(),
        log=log,
        short=short,
        note=_facts({name: fisher}),
    )


def concentration_picture(
    fishers: Mapping[str, Fisher], *, log: bool = False, at: float | None = 0.01, short: bool = False
) -> Picture:
    """Picture of `fisher_concentration`; `short` leaves the numbers to the summary."""
    if at is not None and not 0 < at <= 1:
        raise ValueError(f"at must be a share of the parameters in (0, 1], got {at!r}")
    fishers, note = _comparable(fishers)
    series, sentences, first = [], [], 1.0
    for k, (name, fisher) in enumerate(fishers.items()):
        curve = _table(fisher, fisher.concentration, "concentration")
        x, y = curve["parameters"].to_numpy(), curve["information"].to_numpy()
        unit = "" if fisher.scores is not None else " (whole tensors)"
        gini, words = curve.attrs["gini"], ""
        mark: list[Series] = []
        numbers = f"Gini {gini:.2f}{unit}"
        if at is not None:
            carried = float(np.interp(at, x, y))
            words = f"the top {100 * at:g} % of the parameters carry {100 * carried:.3g} % of the information; "
            numbers += f", top {100 * at:g} %: {100 * carried:.3g} %"
            label = f"{name}, top {100 * at:g} %" if name else f"top {100 * at:g} %"
            mark = [Series(label, [at], [carried], style=k, line=False, in_legend=False)]
        seen = slice(1, None) if log else slice(None)
        label = name if short else f"{name}: {numbers}" if name else numbers
        series += [Series(label, x[seen], y[seen], style=k, marker=False), *mark]
        sentences.append(_prefix(name, unit) + f"{words}Gini coefficient {gini:.3f}")
        first = min(first, x[x > 0].min())
    log = log and first < 1
    even = np.geomspace(first, 1, 60) if log else np.array([0.0, 1.0])
    series.append(Series("spread evenly", even, even, style=6, marker=False))
    return Picture(
        title="Concentration of the information",
        summary=". ".join(sentences) + ".",
        x=Axis("share of parameters, highest scores first", (float(first) if log else 0.0, 1.0), log=log),
        y=Axis("share of the information", (0.0, 1.02)),
        series=tuple(series),
        note=_facts(fishers) + note,
    )


def locator_picture(fisher: Fisher, *, name: str = "", top: float = 0.01, short: bool = False) -> Picture:
    """Picture of where the `top` share of the parameters lies, by layer and component."""
    title = f"Where the top {100 * top:g} % lie: {name}"
    if fisher.scores is None:
        return Picture(
            title,
            'The locator needs a score per parameter: estimate with resolution="element".',
            Axis("component", (0.0, 1.0), ticks=()),
            Axis("layer", (0.0, 1.0), ticks=()),
        )
    located = _table(fisher, lambda: fisher.located(top), "located", top)
    order = _places(fisher).index  # layers and components in the model's order
    share = located["of the top"].reindex(order.to_flat_index().map(tuple)).set_axis(order)
    most = share[share >= 0.005].sort_values(ascending=False).head(3)
    where = ", ".join(f"{100 * value:.0f} % in {_place(*place)}" for place, value in zip(most.index, most, strict=True))
    return _place_picture(share.unstack(), title, "share of the top", f"{name}: {where}.", log=False, short=short)


def stability_picture(fishers: Mapping[str, Fisher]) -> Picture:
    """Picture of how well the order of the places agrees between two texts, against the number of sequences."""
    series, sentences, longest, lowest = [], [], 4, 0.9
    for k, (name, fisher) in enumerate(fishers.items()):
        if len(fisher.history) < 4:
            sentences.append(f"{name}: no record of single sequences, so nothing is known of its stability")
            continue
        table = _table(fisher, fisher.stability, "stability")
        x, y, low, high = table[["sequences", "agreement", "low", "high"]].to_numpy(dtype=float).T
        series.append(Series(name, x, y, low, high, style=k))
        lowest = min(lowest, float(low.min()))
        last = table.iloc[-1]
        longest = max(longest, int(last["sequences"]))
        sentences.append(
            f"{name}: two texts of {last['sequences']:.0f} sequences would agree on the order of the places with a "
            f"rank correlation of {last['agreement']:.3f} (95 % interval {last['low']:.3f} to {last['high']:.3f})"
        )
    bottom = float(np.floor(10 * lowest) / 10) if series else 0.0  # no bars: the axis need not start at zero
    return Picture(
        title="Stability of the order",
        summary=". ".join(sentences) + ".",
        x=Axis("sequences", (3.5, longest * 1.1), log=True),
        y=Axis("rank correlation", (bottom, 1.0 + 0.02 * (1.0 - bottom))),
        series=tuple(series),
    )


def _comparable(fishers: Mapping[str, Fisher]) -> tuple[Mapping[str, Fisher], str]:
    """The results in one unit, parameters or whole tensors, with a note where that had to be changed.

    Whole tensors average over their parameters, which understates the concentration: the two cannot be compared.
    """
    if len({fisher.scores is None for fisher in fishers.values()}) == 1:
        return fishers, ""
    whole = {name: _whole_tensors(fisher) for name, fisher in fishers.items()}
    return whole, "; whole tensors, for not every model here has a score per parameter"


def _whole_tensors(fisher: Fisher) -> Fisher:
    if fisher.scores is None:
        return fisher
    if fisher not in _WHOLE_TENSORS:
        _WHOLE_TENSORS[fisher] = replace(fisher, scores=None, resolution="tensor")
    return _WHOLE_TENSORS[fisher]


def _groups(fisher: Fisher, by: str) -> pd.DataFrame:
    """The grouping with every measure: for single tensors the mean per parameter is their mean score."""
    table = _table(fisher, lambda: fisher.grouped(by), "grouped", by)
    return table if by != "tensor" else table.assign(**{"weighted mean": table["mean"]})


def _places(fisher: Fisher) -> pd.DataFrame:
    """The grouping by layer and component with both levels in the model's order, ready to be unstacked."""
    import pandas as pd

    table = _groups(fisher, "layer and component")
    names = [table.index.get_level_values(level) for level in (0, 1)]
    ordered = [pd.CategoricalIndex(level, list(dict.fromkeys(level)), ordered=True) for level in names]
    return table.set_index(pd.MultiIndex.from_arrays(ordered, names=["layer", "component"]))


def _table(fisher: Fisher, compute: Callable[[], pd.DataFrame], *key: object) -> pd.DataFrame:
    tables = _TABLES.setdefault(fisher, {})
    if key not in tables:
        tables[key] = compute()
    return tables[key]


def _place_picture(
    table: pd.DataFrame, title: str, label: str, summary: str, *, log: bool, short: bool, note: str = ""
) -> Picture:
    """A table with layers as rows and components as columns as coloured cells, the first layer on top."""
    values = table.to_numpy(dtype=float)
    if log and (values > 0).any():
        values = np.where(values > 0, values, np.nan)
    rows, columns = values.shape
    colours = _value_axis(label, values[np.isfinite(values)], log=log, air=False)
    word = _short if short else str
    layers, components = [word(str(name)) for name in table.index], [word(str(name)) for name in table.columns]
    return Picture(
        title=title,
        summary=summary,
        x=Axis("component", (-0.5, columns - 0.5), ticks=list(enumerate(components))),
        y=Axis("layer", (-0.5, rows - 0.5), ticks=[(rows - 1 - k, name) for k, name in enumerate(layers)]),
        cells=Cells(np.arange(columns), np.arange(rows), values[::-1].T, label, colours.bounds, log=colours.log),
        note=note,
    )


def _value_axis(label: str, values: object, *, log: bool, air: bool = True) -> Axis:
    """An axis from zero, or a logarithmic one where it is asked for and possible; without `air` up to the highest."""
    shown = np.asarray(values, dtype=float)
    positive = shown[np.isfinite(shown) & (shown > 0)]
    if log and len(positive):
        axis = Axis.around(label, positive, log=True)
        low, high = axis.bounds[0] * 1.5, axis.bounds[1] / 1.5
        return axis if air or not low < high else Axis(label, (low, high), log=True)
    high = float(positive.max()) if len(positive) else 1.0
    return Axis(label, (0.0, high * 1.05 if air else high))


def _measure_label(measure: str, normalize: bool) -> str:
    return f"{MEASURES[measure].split(' (')[0]} / maximum" if normalize else MEASURES[measure]


def _prefix(name: str, unit: str = "") -> str:
    return f"{name}{unit}: " if name else ""


def _place(layer: str, component: str) -> str:
    return component if layer == component else f"{component} of {layer}"


def _short(name: str) -> str:
    return {"embedding": "emb.", "attention": "attn.", "feed-forward": "ff."}.get(name, name.removeprefix("layer "))


def _facts(fishers: Mapping[str, Fisher]) -> str:
    """The estimators and the numbers of sequences."""
    estimators = ", ".join(dict.fromkeys(fisher.estimator for fisher in fishers.values()))
    counts = sorted({fisher.n_sequences for fisher in fishers.values()})
    count = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    return estimators + (f", {count} sequences" if counts[-1] else "")


def _named(fisher: Fisher | Mapping[str, Fisher]) -> dict[str, Fisher]:
    from gdrop_viz.fisher import Fisher

    named = dict(fisher) if isinstance(fisher, Mapping) else {"": fisher}
    if not named:
        raise ValueError("expected at least one Fisher result, got an empty mapping")
    for one in named.values():
        instance(one, Fisher, "fisher", "fisher_information")
    return named
