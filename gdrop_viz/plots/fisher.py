"""What does Fisher information look like? Its profile along depth, a heatmap by place, and its concentration."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import instance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gdrop_viz.fisher import Fisher

MEASURES = {
    "mean": "mean score of the tensors (nats²/unit²)",
    "weighted mean": "mean score per parameter (nats²/unit²)",
    "share": "share of all information",
}
_STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))
# half-width of a 95 % interval in standard errors of a mean over many sequences
_Z = 1.96


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
    The axes. Error bars are 95 % intervals over sequences, where they are known ("mean" only). Several models share
    the axis by relative depth: 0 is the first group in the order of the model, 1 the last.

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> fisher_profile(fisher).get_ylabel()
    'mean score of the tensors (nats²/unit²)'
    """
    _check_measure(measure)
    several = isinstance(fisher, Mapping)
    named = _named(fisher)
    if not named:
        raise ValueError("expected at least one Fisher result, got an empty mapping")
    normalize = len(named) > 1 if normalize is None else normalize
    ax = _axes(ax, (7.0, 3.6))
    for (name, one), (dash, marker), colour in zip(
        named.items(), cycle(_STYLES), cycle(_colours(len(named))), strict=False
    ):
        table = fisher_groups(one, by)
        values = table[measure].to_numpy(dtype=float)
        errors = table["standard error"].to_numpy(dtype=float) if measure == "mean" else np.full(len(values), np.nan)
        scale = values.max() if normalize and values.max() > 0 else 1.0
        x = np.arange(len(values)) / max(len(values) - 1, 1) if len(named) > 1 else np.arange(len(values))
        known = np.isfinite(errors)
        ax.errorbar(
            x,
            values / scale,
            yerr=np.where(known, _Z * errors / scale, 0.0) if known.any() else None,
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=4,
            capsize=2,
            label=name or None,
        )
        if len(named) == 1:
            _name_groups(ax, table)
    ax.set_ylabel(f"{MEASURES[measure].split(' (')[0]} / maximum" if normalize else MEASURES[measure])
    ax.set_xlabel(f"relative depth ({by}s in the model's order)" if len(named) > 1 else by)
    if log and any((one.means > 0).any() for one in named.values()):
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    if several:
        ax.legend(frameon=False)
    ax.set_title(_title(named), fontsize=10)
    return ax


def fisher_heatmap(fisher: Fisher, *, measure: str = "mean", log: bool = True, ax: Axes | None = None) -> Axes:
    """Draw the Fisher information by layer (rows) and component (columns); places that do not exist stay blank.

    `measure` is "mean", "weighted mean" or "share"; `log` colours by a logarithmic scale.

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> [label.get_text() for label in fisher_heatmap(fisher).get_xticklabels()]
    ['attention', 'feed-forward']
    """
    import seaborn
    from matplotlib.colors import LogNorm

    _check_measure(measure)
    _named(fisher)
    table = fisher_places(fisher)[measure].unstack()
    norm = None
    if log and (table > 0).to_numpy().any():
        table = table.where(table > 0)  # a zero has no logarithm: it stays blank
        norm = LogNorm(table.min().min(), table.max().max())
    ax = _axes(ax, (2.0 + 1.15 * len(table.columns), 1.4 + 0.36 * len(table)))
    seaborn.heatmap(
        table,
        ax=ax,
        cmap="viridis",
        norm=norm,
        cbar_kws={"label": MEASURES[measure]},
        linewidths=0.5,
    )
    ax.set(xlabel="component", ylabel="layer")
    ax.tick_params(axis="y", rotation=0)
    ax.set_xticks(ax.get_xticks(), [label.get_text() for label in ax.get_xticklabels()], rotation=25, ha="right")
    ax.set_title(_title({"": fisher}), fontsize=10)
    return ax


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

    >>> import pandas as pd
    >>> from gdrop_viz import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> fisher_concentration(fisher).get_xlabel()
    'share of parameters, highest scores first'
    """
    if at is not None and not 0 < at <= 1:
        raise ValueError(f"at must be a share of the parameters in (0, 1], got {at!r}")
    named = _named(fisher)
    if not named:
        raise ValueError("expected at least one Fisher result, got an empty mapping")
    ax = _axes(ax, (5.0, 4.0))
    first = 1.0
    for (name, one), (dash, _), colour in zip(named.items(), cycle(_STYLES), cycle(_colours(len(named))), strict=False):
        curve = one.concentration()
        unit = "" if one.scores is not None else ", whole tensors"
        label = f"{name + ': ' if name else ''}Gini {curve.attrs['gini']:.2f}{unit}"
        ax.plot(curve["parameters"], curve["information"], color=colour, linestyle=dash, label=label)
        first = min(first, curve["parameters"][curve["parameters"] > 0].min())
        if at is not None:
            carried = float(np.interp(at, curve["parameters"], curve["information"]))
            ax.plot([at], [carried], marker="o", color=colour, linestyle="none")
            ax.annotate(
                f"{at:.3g} → {carried:.2f}", (at, carried), xytext=(6, -10), textcoords="offset points", fontsize=8
            )
    even = np.geomspace(first, 1, 100) if log and first < 1 else np.array([0.0, 1.0])
    ax.plot(even, even, color="0.5", linewidth=0.8, linestyle=(0, (1, 2)), label="spread evenly")
    if log and first < 1:
        ax.set_xscale("log")
    ax.set(xlabel="share of parameters, highest scores first", ylabel="share of the information", ylim=(0, 1.02))
    ax.legend(frameon=False, loc="lower right", fontsize=8)
    ax.set_title(_title(named), fontsize=10)
    return ax


def fisher_groups(fisher: Fisher, by: str) -> pd.DataFrame:
    """The grouping with every measure: for single tensors the mean per parameter is their mean score."""
    table = fisher.grouped(by)
    return table if by != "tensor" else table.assign(**{"weighted mean": table["mean"]})


def fisher_places(fisher: Fisher) -> pd.DataFrame:
    """The grouping by layer and component with both levels in the model's order, ready to be unstacked."""
    import pandas as pd

    table = fisher.grouped("layer and component")
    levels = [table.index.get_level_values(level) for level in (0, 1)]
    ordered = [pd.CategoricalIndex(level, list(dict.fromkeys(level)), ordered=True) for level in levels]
    return table.set_index(pd.MultiIndex.from_arrays(ordered, names=["layer", "component"]))


def _name_groups(ax: Axes, table: pd.DataFrame) -> None:
    names = [str(name) for name in table.index]
    if len(names) > 40:  # tensors: their names would run into one another
        return
    ax.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 3 else 0, ha="right", fontsize=8)


def _title(named: Mapping[str, Fisher]) -> str:
    first = next(iter(named.values()))
    counts = sorted({one.n_sequences for one in named.values()})
    count = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    return f"Fisher information, {first.estimator}" + (f", {count} sequences" if counts[-1] else "")


def _colours(n: int) -> list[tuple[float, float, float]]:
    import seaborn

    return seaborn.color_palette("colorblind", max(n, 1))


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def _named(fisher: Fisher | Mapping[str, Fisher]) -> dict[str, Fisher]:
    from gdrop_viz.fisher import Fisher

    named = dict(fisher) if isinstance(fisher, Mapping) else {"": fisher}
    if not named:
        raise ValueError("expected at least one Fisher result, got an empty mapping")
    for one in named.values():
        instance(one, Fisher, "fisher", "fisher_information")
    return named


def _check_measure(measure: str) -> None:
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(map(repr, MEASURES))}, got {measure!r}")
