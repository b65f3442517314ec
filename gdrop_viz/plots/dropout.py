"""Plot of the dropout rate of every site along the depth of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.checks import instance
from gdrop_viz.plots.picture import Axis, Picture, Reference, Series
from gdrop_viz.plots.render import draw, draw_legend, new_axes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from gdrop_viz.dropout import DropoutSchedule

# every kind of site keeps its hue, dash and marker in all pictures
_STYLES = {
    "attention probabilities": 0,
    "attention output": 1,
    "feed-forward": 2,
    "embedding": 3,
    "head": 4,
    "other": 5,
}
_SPREAD = 0.25
_MAX_TICKS = 13


def dropout_rates(
    schedule: DropoutSchedule | Mapping[str, DropoutSchedule], *, ax: Axes | Iterable[Axes] | None = None
) -> Axes | np.ndarray:
    """Draw the rate of every site along the depth, one line per kind of site; the thin line is the mean over sites.

    Parameters
    ----------
    schedule
        One schedule, or label -> schedule for one panel each with a common rate axis.
    ax
        Axes to draw on, as many as there are schedules; by default new ones.

    Returns
    -------
    Axes
        An array of them for a mapping. Several sites of a kind in one layer stand side by side.

    >>> import matplotlib.pyplot as plt
    >>> from gdrop_viz import DropoutSchedule, DropoutSite
    >>> sites = tuple(DropoutSite(f"h.{i}.mlp.dropout", f"h.{i}.mlp", "feed-forward", 0.1, (), i) for i in range(3))
    >>> schedule = DropoutSchedule({site.name: 0.1 - 0.05 * site.layer for site in sites}, "guided", sites)
    >>> ax = dropout_rates(schedule)
    >>> ax.get_ylabel(), ax.lines[-1].get_ydata().tolist()
    ('dropout rate', [0.1, 0.05, 0.0])
    >>> plt.close(ax.figure)
    """
    import numpy as np

    from gdrop_viz.dropout import DropoutSchedule

    for one in schedule.values() if isinstance(schedule, Mapping) else (schedule,):
        instance(one, DropoutSchedule, "schedule", "guided_dropout")
    if not isinstance(schedule, Mapping):
        own: Any = new_axes((6.4, 3.6)) if ax is None else ax
        return draw(rates_picture(schedule, title=f"{schedule.kind} dropout"), own, beside=True)
    if not schedule:
        raise ValueError("expected at least one schedule to draw, got an empty mapping")
    panels: list[Axes] = list(_new_panels(len(schedule)) if ax is None else ax)  # type: ignore[arg-type]
    if len(panels) != len(schedule):
        raise ValueError(f"expected as many axes as the {len(schedule)} schedules, got {len(panels)}")
    top = max(map(_top, schedule.values()))
    for panel, (label, one) in zip(panels, schedule.items(), strict=True):
        draw(rates_picture(one, title=label, top=top), panel, legend=False)
        if panel is not panels[0]:
            panel.set_ylabel("")
    draw_legend(panels[-1], beside=True, panels=panels)
    return np.array(panels)


def rates_picture(
    schedule: DropoutSchedule, *, title: str, top: float | None = None, references: Mapping[str, float] | None = None
) -> Picture:
    """Picture of `dropout_rates`: one series per kind of site, read out by the sites' names.

    `top` is the end of the rate axis, `references` are rates to compare with, by name.
    """
    top = _top(schedule) if top is None else top
    frame = schedule.to_frame().dropna(subset="rate").reset_index()
    places = [_place(*row) for row in zip(frame["stack"], frame["layer"], frame["kind"], strict=True)]
    labels = dict(sorted(set(places)))
    frame["x"] = [float(list(labels).index(depth)) for depth, _ in places]
    # side by side what would lie on one spot (T5 has two feed-forward sites in a layer)
    group = frame.groupby(["x", "kind"])["rate"]
    count = group.transform("size")
    frame["x"] = frame["x"] + _SPREAD * (group.cumcount() - (count - 1) / 2) / count.clip(lower=2) * 2
    series = []
    for kind, style in _STYLES.items():
        part = frame[frame["kind"] == kind].sort_values("x")
        if part.empty:
            continue
        rows = list(zip(part["x"], part["rate"], part["site"], strict=True))
        stacks = part["stack"].tolist()
        for i in range(len(part) - 1, 0, -1):
            if stacks[i] != stacks[i - 1]:  # no line leads from the encoder to the decoder
                rows.insert(i, (float("nan"), float("nan"), ""))
        x, rates, names = (list(column) for column in zip(*rows, strict=True))
        series.append(Series(kind, x, rates, style=style, details=names))
    step = -(-len(labels) // _MAX_TICKS)  # the first is always among the labels
    return Picture(
        title=f"{title} (mean {schedule.mean_rate:.3g})",
        summary=rates_summary(schedule),
        x=Axis("depth (layer)", (-0.5, max(len(labels) - 1, 1) + 0.5), ticks=list(enumerate(labels.values()))[::step]),
        y=Axis("dropout rate", (-0.03 * top, top)),
        series=tuple(series),
        references=(
            Reference("y", schedule.mean_rate, f"mean {schedule.mean_rate:.3g}" if references else ""),
            *(Reference("y", rate, name) for name, rate in (references or {}).items()),
        ),
    )


def rates_summary(schedule: DropoutSchedule) -> str:
    """The rates in one sentence."""
    by_rate = sorted(schedule.rates, key=schedule.rates.__getitem__)
    low, high = by_rate[0], max(schedule.rates, key=schedule.rates.__getitem__)
    least, most = schedule.rates[low], schedule.rates[high]
    if least == most:
        return f"rate {least:.3g} at every site"
    return f"mean rate {schedule.mean_rate:.3g}, from {least:.3g} at {low} to {most:.3g} at {high}"


def _new_panels(count: int) -> Any:
    import matplotlib.pyplot as plt

    width = 6.4 if count == 1 else 3.4 * count + 1.6
    _, axes = plt.subplots(1, count, figsize=(width, 3.6), sharey=True, squeeze=False, layout="constrained")
    return axes[0]


def _top(schedule: DropoutSchedule) -> float:
    return max(0.02, 1.08 * max(schedule.rates.values()))


def _place(stack: str, layer: Any, kind: str) -> tuple[tuple[bool, int], str]:
    """Where on the axis: encoder before decoder, embeddings before the layers, a head behind; and the tick's label."""
    import pandas as pd

    if not pd.isna(layer):
        return (stack == "decoder", int(layer)), f"{stack[:3]} {int(layer)}".strip()
    behind = kind == "head"
    return (stack == "decoder" or behind, 10**6 if behind else -1), "head" if behind else f"{stack[:3]} emb.".strip()
