"""Which arm fine-tunes best, by how much, and along which path?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gdrop_viz.base.checks import instance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gdrop_viz.finetuning import Comparison

# hue, marker and dashes all tell the arm; the palette keeps its contrast on white and on black
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_HUES = (0, 1, 2, 3, 4, 5, 9, 7, 6, 8)  # the palest of the colour-blind-safe palette last
_SPREAD = 0.7  # of the room between two categories, that what stands side by side takes


def comparison(result: Comparison, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw each arm's mean with its 95 % interval, and the single runs, over the share of the training data.

    The score is that of the validation split after the last epoch. Small dots are runs. Returns the axes.

    >>> import matplotlib.pyplot as plt
    >>> ax = comparison(_example())
    >>> ax.get_ylabel(), [label.get_text() for label in ax.get_xticklabels()]
    ('validation accuracy (points)', ['25 %', '100 %'])
    >>> plt.close(ax.figure)
    """
    from gdrop_viz.finetuning.units import percent

    metric, scale, unit = _reading(result, metric)
    summary, scores = result.summary(metric), result.scores(metric)
    fractions, arms = sorted(result.fractions), result.arms
    ax = _axes(ax, width=3.6 + 0.9 * len(fractions))
    for k, arm in enumerate(arms):
        rows = summary[summary["arm"] == arm].sort_values("fraction")
        runs = scores[scores["arm"] == arm]
        shift = _SPREAD * ((k + 0.5) / len(arms) - 0.5)
        x = [fractions.index(fraction) + shift for fraction in rows["fraction"]]
        color = _runs(ax, k, [fractions.index(f) + shift for f in runs["fraction"]], scale * runs["value"])
        _means(ax, k, color, x, scale * rows[["mean", "low", "high"]], label=arm)
    ax.set_xticks(range(len(fractions)), [percent(fraction) for fraction in fractions])
    ax.set(xlim=(-0.5, len(fractions) - 0.5), xlabel="share of the training data", ylabel=f"validation {metric}{unit}")
    ax.set_title(_title(result, summary["n"]), fontsize="medium")
    _legend(ax)
    return ax


def paired_differences(
    result: Comparison, metric: str | None = None, *, baseline: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw each arm's mean difference from `baseline` (by default the first arm) with its 95 % interval.

    Differences are taken seed by seed, which removes what the runs of a seed share; small dots are the seeds. An
    interval that does not cross the line at zero is a difference. Returns the axes.

    Raises
    ------
    ValueError
        If `baseline` is no arm, or there is no other arm.

    >>> import matplotlib.pyplot as plt
    >>> ax = paired_differences(_example(), baseline="standard")
    >>> ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()]
    ('difference in accuracy from standard (points)', ['guided'])
    >>> plt.close(ax.figure)
    """
    from gdrop_viz.finetuning.units import percent

    metric, scale, unit = _reading(result, metric)
    baseline = result.arms[0] if baseline is None else baseline
    others = [arm for arm in result.arms if arm != baseline]
    if baseline not in result.arms or not others:
        raise ValueError(f"baseline must be one of several arms ({', '.join(result.arms)}), got {baseline!r}")
    ax = _axes(ax, width=6.4, height=1.4 + 0.35 * len(others) * max(1, len(result.fractions) / 1.5))
    ax.axvline(0.0, color="0.5", linewidth=0.8, zorder=0)
    n = len(result.fractions)
    for k, fraction in enumerate(result.fractions):
        shift = _SPREAD * ((k + 0.5) / n - 0.5)
        tests = [result.paired(arm, baseline, metric).set_index("fraction").loc[fraction] for arm in others]
        for place, arm in enumerate(others):
            differences = result.differences(arm, baseline, metric)
            values = scale * differences.loc[differences["fraction"] == fraction, "value"]
            color = _runs(ax, k, values, [place + shift] * len(values))
        for place, test in enumerate(tests):
            _means(
                ax,
                k,
                color,
                [place + shift],
                scale * test[["mean", "low", "high"]].to_frame().T,
                label=f"{percent(fraction)} of the data" if place == 0 else "_",
                horizontal=True,
            )
    ax.set_yticks(range(len(others)), others)
    ax.set(ylim=(len(others) - 0.5, -0.5), xlabel=f"difference in {metric} from {baseline}{unit}")
    ax.set_title(_title(result, result.summary(metric)["n"]), fontsize="medium")
    _legend(ax)
    return ax


def training_curves(
    result: Comparison,
    metric: str | None = None,
    *,
    split: str = "validation",
    fraction: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean of a metric over the seeds after each epoch, with its 95 % interval, one line per arm.

    `split="train"` shows the training loss (with dropout on). `fraction` is by default the largest. Returns the axes.

    >>> import matplotlib.pyplot as plt
    >>> ax = training_curves(_example(), fraction=0.25)
    >>> ax.get_ylabel(), [arm.get_label() for arm in ax.containers]
    ('validation accuracy (points)', ['standard', 'guided'])
    >>> plt.close(ax.figure)
    """
    from matplotlib.ticker import MaxNLocator

    from gdrop_viz.finetuning.units import percent

    fraction = result.fractions[0] if fraction is None and result.fractions else fraction
    if fraction not in result.fractions:
        raise ValueError(f"fraction must be one of {', '.join(map(str, result.fractions))}, got {fraction!r}")
    metric, scale, unit = _reading(result, "loss" if split == "train" and metric is None else metric)
    history = result.history(metric, split=split)
    history = history[history["fraction"] == fraction]
    ax = _axes(ax, width=6.4)
    for k, arm in enumerate(result.arms):
        rows = history[history["arm"] == arm]
        # side by side, so that intervals of many arms do not hide each other
        x = rows["epoch"] + 0.3 * ((k + 0.5) / len(result.arms) - 0.5)
        _means(ax, k, _color(k), x, scale * rows[["mean", "low", "high"]], label=arm, line=_DASHES[k % len(_DASHES)])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=f"{'training' if split == 'train' else split} {metric}{unit}")
    ax.set_title(_title(result, history["n"], f"{percent(fraction)} of the data"), fontsize="medium")
    _legend(ax)
    return ax


def _reading(result: Comparison, metric: str | None) -> tuple[str, float, str]:
    """The metric's name, the factor it is shown with and its unit."""
    from gdrop_viz.finetuning import Comparison

    instance(result, Comparison, "result", "compare")
    if result.runs.empty:
        raise ValueError("the comparison holds no finished run, so there is nothing to draw")
    from gdrop_viz.finetuning.units import in_points

    metric = result.metric if metric is None else metric
    if in_points(metric):
        return metric, 100.0, " (points)"
    classifies = "accuracy" in result.metrics or "matthews" in result.metrics or "f1" in result.metrics
    return metric, 1.0, " (nats)" if metric == "loss" and classifies else ""


def _axes(ax: Axes | None, *, width: float, height: float = 3.8) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _color(k: int) -> Any:
    import seaborn as sns

    return sns.color_palette("colorblind")[_HUES[k % 10]]


def _runs(ax: Axes, k: int, x: Any, y: Any) -> Any:
    color = _color(k)
    ax.scatter(x, y, s=9, color=color, alpha=0.4, linewidths=0, zorder=1)
    return color


def _means(
    ax: Axes, k: int, color: Any, places: Any, rows: Any, *, label: str, horizontal: bool = False, line: Any = ""
) -> None:
    mean = rows["mean"].astype(float).to_numpy()
    # an unknown interval (one seed) draws the mean alone
    bars = [(mean - rows["low"]).astype(float).to_numpy(), (rows["high"] - mean).astype(float).to_numpy()]
    where = {"x": mean, "y": places, "xerr": bars} if horizontal else {"x": places, "y": mean, "yerr": bars}
    marker = _MARKERS[k % len(_MARKERS)]
    ax.errorbar(**where, color=color, marker=marker, markersize=6, linestyle=line, capsize=3, label=label)


def _title(result: Comparison, counts: Any, *more: str) -> str:
    seeds = sorted(set(counts))
    over = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    shown = "one seed, so no interval" if seeds == [1] else f"mean and 95 % interval, {over}"
    names = [str(result.metadata[key]) for key in ("task", "validation_set", "model") if result.metadata.get(key)]
    return "\n".join(filter(None, [", ".join([*names, *more]), shown]))


def _legend(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")


def _example() -> Comparison:
    """Two arms, two fractions, three seeds: for the examples above."""
    import pandas as pd

    from gdrop_viz.finetuning import Comparison

    rows = [
        (arm, fraction, seed, epoch, "validation", "accuracy", 0.6 + 0.1 * fraction + 0.02 * seed + 0.01 * epoch, 0.0)
        for arm in ("standard", "guided")
        for fraction in (1.0, 0.25)
        for seed in range(3)
        for epoch in (1, 2)
    ]
    columns = ["arm", "fraction", "seed", "epoch", "split", "metric", "value", "seconds"]
    return Comparison(pd.DataFrame(rows, columns=columns), metric="accuracy")
