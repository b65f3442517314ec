"""Which dropout rate does each site get along the depth of the model?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.checks import instance

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from gdrop_viz.dropout import DropoutSchedule

# hue, marker and dashes all say the kind; the palette keeps its contrast on white and on black
_STYLES = {
    "embedding": (3, "D", ""),
    "attention probabilities": (0, "o", ""),
    "attention output": (1, "s", (4, 2)),
    "feed-forward": (2, "^", (1, 1)),
    "other": (4, "X", (5, 1, 1, 1)),
}
_SPREAD = 0.25


def dropout_rates(
    schedule: DropoutSchedule | Mapping[str, DropoutSchedule], *, ax: Axes | Iterable[Axes] | None = None
) -> Axes | np.ndarray:
    """Draw the rate of every site along the depth, one line per kind of site; the thin line is the mean over sites.

    A mapping label -> schedule gives one panel each with a common rate axis. Several sites of a kind in one layer
    stand side by side. The axes are returned (an array of them for a mapping); `ax` may be the axes to draw into.

    >>> import matplotlib.pyplot as plt
    >>> from gdrop_viz.dropout import DropoutSchedule, DropoutSite
    >>> sites = tuple(DropoutSite(f"h.{i}.mlp.dropout", f"h.{i}.mlp", "feed-forward", 0.1, (), i) for i in range(3))
    >>> schedule = DropoutSchedule({site.name: 0.1 - 0.05 * site.layer for site in sites}, "guided", sites)
    >>> ax = dropout_rates(schedule)
    >>> ax.get_ylabel(), ax.lines[0].get_ydata().tolist()
    ('dropout rate', [0.1, 0.05, 0.0])
    >>> plt.close(ax.figure)
    """
    import numpy as np

    from gdrop_viz.dropout import DropoutSchedule

    for one in schedule.values() if isinstance(schedule, Mapping) else (schedule,):
        instance(one, DropoutSchedule, "schedule", "guided_dropout")
    if not isinstance(schedule, Mapping):
        axes = _new_axes(1)[0] if ax is None else ax
        _draw(schedule, axes, title=f"{schedule.kind} dropout", top=_top([schedule]))
        _legend(axes, [axes])
        return axes
    if not schedule:
        raise ValueError("expected at least one schedule to draw, got an empty mapping")
    panels = list(_new_axes(len(schedule)) if ax is None else ax)
    if len(panels) != len(schedule):
        raise ValueError(f"expected as many axes as the {len(schedule)} schedules, got {len(panels)}")
    top = _top(schedule.values())
    for panel, (label, one) in zip(panels, schedule.items(), strict=True):
        _draw(one, panel, title=label, top=top)
        if panel is not panels[0]:
            panel.set_ylabel("")
    _legend(panels[-1], panels)
    return np.array(panels)


def _new_axes(count: int) -> Any:
    import matplotlib.pyplot as plt

    width = 6.4 if count == 1 else 3.4 * count + 1.6
    _, axes = plt.subplots(1, count, figsize=(width, 3.6), sharey=True, squeeze=False, layout="constrained")
    return axes[0]


def _top(schedules: Iterable[DropoutSchedule]) -> float:
    return max(0.02, 1.08 * max(max(schedule.rates.values()) for schedule in schedules))


def _draw(schedule: DropoutSchedule, ax: Axes, *, title: str, top: float) -> None:
    import seaborn as sns

    frame = schedule.to_frame().dropna(subset="rate")
    places = [_place(stack, layer) for stack, layer in zip(frame["stack"], frame["layer"], strict=True)]
    labels = dict(sorted(set(places)))
    frame["x"] = [list(labels).index(depth) for depth, _ in places]
    # side by side what would lie on one spot (T5 has two feed-forward sites in a layer)
    group = frame.groupby(["x", "kind"])["rate"]
    count = group.transform("size")
    frame["x"] = frame["x"] + _SPREAD * (group.cumcount() - (count - 1) / 2) / count.clip(lower=2) * 2
    palette = sns.color_palette("colorblind")
    for kind, (color, marker, dashes) in _STYLES.items():
        part = frame[frame["kind"] == kind].sort_values("x")
        if part.empty:
            continue
        x, rate = part["x"].tolist(), part["rate"].tolist()
        for i in range(len(part) - 1, 0, -1):
            if part["stack"].iloc[i] != part["stack"].iloc[i - 1]:  # no line leads from the encoder to the decoder
                x.insert(i, float("nan"))
                rate.insert(i, float("nan"))
        (line,) = ax.plot(
            x,
            rate,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            label=kind,
            color=palette[color],
        )
        if dashes:
            line.set_dashes(dashes)
    ax.axhline(schedule.mean_rate, color="0.5", linewidth=0.8, zorder=0)
    ax.set(xlabel="depth (layer)", ylabel="dropout rate", ylim=(-0.03 * top, top))
    ax.set_title(f"{title} (mean {schedule.mean_rate:.3g})", fontsize="medium")
    # at most about a dozen labels, the first always among them
    step = -(-len(labels) // 13)
    ax.set_xticks(range(0, len(labels), step), list(labels.values())[::step])
    if any(stack for stack in frame["stack"]):
        ax.tick_params(axis="x", rotation=45)


def _place(stack: str, layer: Any) -> tuple[tuple[bool, int], str]:
    """Where on the axis: encoder before decoder, what lies outside the layers first; and the tick's label."""
    import pandas as pd

    index = -1 if pd.isna(layer) else int(layer)
    return (stack == "decoder", index), f"{stack[:3]} {index if index >= 0 else 'emb.'}".strip()


def _legend(ax: Axes, panels: list[Axes]) -> None:
    lines = {line.get_label(): line for panel in panels for line in panel.lines if not line.get_label().startswith("_")}
    ordered = [lines[kind] for kind in _STYLES if kind in lines]
    ax.legend(handles=ordered, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
