"""Plots of a comparison of fine-tuning arms: scores, paired differences, training curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gdrop_viz.base.checks import instance, one_of
from gdrop_viz.finetuning.units import in_points, percent
from gdrop_viz.plots.picture import Axis, Picture, Reference, Series
from gdrop_viz.plots.render import draw

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gdrop_viz.finetuning import Comparison

_SPREAD = 0.7  # of the room between two categories, that what stands side by side takes
_MAX_EPOCHS = 12  # that are named one by one


def comparison(result: Comparison, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw each arm's mean with its 95 % interval, and the single runs, over the share of the training data.

    Parameters
    ----------
    result
        What `gv.compare` returned.
    metric
        One of its metrics, by default the task's own; the score is that of the validation split after the last epoch.
    ax
        Axes to draw on; by default new ones.

    Returns
    -------
    Axes
        Small dots are runs.

    >>> import matplotlib.pyplot as plt
    >>> ax = comparison(_example())
    >>> ax.get_ylabel(), [label.get_text() for label in ax.get_xticklabels()]
    ('validation accuracy (points)', ['25 %', '100 %'])
    >>> plt.close(ax.figure)
    """
    picture = comparison_picture(result, metric)
    return draw(picture, ax, size=(3.6 + 0.9 * len(result.fractions), 3.8), beside=True)


def paired_differences(
    result: Comparison, metric: str | None = None, *, baseline: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw each arm's mean difference from `baseline` (by default the first arm) with its 95 % interval.

    Differences are taken seed by seed, which removes what the runs of a seed share; small dots are the seeds. An
    interval that does not cross the line at zero is a difference.

    Parameters
    ----------
    result, metric, ax
        As in `comparison`.
    baseline
        The arm that all others are compared with.

    Returns
    -------
    Axes

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
    picture = differences_picture(result, metric, baseline=baseline)
    rows = len(picture.y.ticks or ()) * max(1, len(result.fractions) / 1.5)
    return draw(picture, ax, size=(6.4, 1.4 + 0.35 * rows), beside=True)


def training_curves(
    result: Comparison,
    metric: str | None = None,
    *,
    split: str = "validation",
    fraction: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean of a metric over the seeds after each epoch, with its 95 % interval, one line per arm.

    Parameters
    ----------
    result, metric, ax
        As in `comparison`.
    split
        "validation", or "train" for the training loss (with dropout on).
    fraction
        The share of the training data, by default the largest.

    Returns
    -------
    Axes

    >>> import matplotlib.pyplot as plt
    >>> ax = training_curves(_example(), fraction=0.25)
    >>> ax.get_ylabel(), [arm.get_label() for arm in ax.containers]
    ('validation accuracy (points)', ['standard', 'guided'])
    >>> plt.close(ax.figure)
    """
    return draw(training_picture(result, metric, split=split, fraction=fraction), ax, beside=True)


def comparison_picture(result: Comparison, metric: str | None = None) -> Picture:
    """Picture of `comparison`: the runs as faint dots, then the arms with their intervals."""
    metric, scale, unit = _reading(result, metric)
    summary, scores = result.summary(metric), result.scores(metric)
    fractions = sorted(result.fractions)
    arms = [arm for arm in result.arms if arm in set(summary["arm"])]
    runs, means = [], []
    for k, arm in enumerate(arms):
        rows = summary[summary["arm"] == arm].sort_values("fraction")
        own = scores[scores["arm"] == arm]
        shift = _SPREAD * ((k + 0.5) / len(arms) - 0.5)
        x = [fractions.index(fraction) + shift for fraction in own["fraction"]]
        names = [f"{arm}, {percent(row['fraction'])} of the data, seed {row['seed']}" for row in own.to_dict("records")]
        runs.append(_dots(arm, x, (scale * own["value"]).tolist(), k, names))
        x = [fractions.index(fraction) + shift for fraction in rows["fraction"]]
        names = [
            f"{arm}, {percent(row['fraction'])} of the data, {_seeds(row['n'])}" for row in rows.to_dict("records")
        ]
        mean, low, high = _scaled(rows, scale)
        means.append(Series(arm, x, mean, low, high, style=k, line=False, details=names))
    counts = sorted({int(summary["n"].min()), int(summary["n"].max())})
    over = _seeds(" to ".join(map(str, counts)))
    most = summary[summary["fraction"] == fractions[-1]]
    found = ", ".join(f"{row['arm']} {scale * row['mean']:.3g}" for row in most.to_dict("records"))
    interval = "no interval: a single seed has no spread" if counts == [1] else "bars are 95 % intervals"
    return Picture(
        title=_subject(result),
        summary=f"Mean over {over} at {percent(fractions[-1])} of the data: {found}{unit}; {interval}.",
        x=Axis("share of the training data", (-0.5, len(fractions) - 0.5), [*enumerate(map(percent, fractions))]),
        y=Axis.around(f"validation {metric}{unit}", _ends([*runs, *means])),
        series=(*runs, *means),
        note=_counted(summary["n"].tolist()),
    )


def differences_picture(result: Comparison, metric: str | None = None, *, baseline: str | None = None) -> Picture:
    """Picture of `paired_differences`: horizontal intervals, one series per share of the data, the first arm on top."""
    metric, scale, unit = _reading(result, metric)
    baseline = result.arms[0] if baseline is None else baseline
    others = [arm for arm in result.arms if arm != baseline]
    if baseline not in result.arms or not others:
        raise ValueError(f"baseline must be one of several arms ({', '.join(result.arms)}), got {baseline!r}")
    tests = {arm: result.paired(arm, baseline, metric).set_index("fraction") for arm in others}
    n, seeds, means = len(result.fractions), [], []
    for k, fraction in enumerate(result.fractions):
        places = [len(others) - 1 - place - _SPREAD * ((k + 0.5) / n - 0.5) for place in range(len(others))]
        for arm, place in zip(others, places, strict=True):
            each = result.differences(arm, baseline, metric)
            values = (scale * each.loc[each["fraction"] == fraction, "value"]).tolist()
            names = [f"{arm} - {baseline}, {percent(fraction)} of the data, a seed"] * len(values)
            seeds.append(_dots(arm, values, [place] * len(values), k, names, horizontal=True))
        mean, low, high = ([scale * float(tests[arm][name][fraction]) for arm in others] for name in _INTERVAL)
        means.append(
            Series(
                f"{percent(fraction)} of the data", mean, places, low, high, style=k,
                line=False, horizontal=True,
                details=[f"{arm} - {baseline}, {percent(fraction)} of the data" for arm in others],
            )
        )  # fmt: skip
    found = ", ".join(f"{arm} {scale * tests[arm]['mean'].iloc[0]:+.3g}" for arm in others)
    return Picture(
        title=_subject(result),
        summary=f"Mean difference from {baseline} at {percent(result.fractions[0])} of the data: {found}{unit}.",
        x=Axis.around(
            f"difference in {metric} from {baseline}{unit}", [0.0, *_ends([*seeds, *means], horizontal=True)]
        ),
        y=Axis("arm", (-0.5, len(others) - 0.5), [(len(others) - 1 - k, arm) for k, arm in enumerate(others)]),
        series=(*seeds, *means),
        references=(Reference("x", 0.0),),
        note=_counted(result.summary(metric)["n"].tolist()),
    )


def training_picture(
    result: Comparison, metric: str | None = None, *, split: str = "validation", fraction: float | None = None
) -> Picture:
    """Picture of `training_curves`."""
    metric, scale, unit = _reading(result, "loss" if split == "train" and metric is None else metric)
    fractions = [float(one) for one in result.fractions]
    fraction = one_of(fractions[0] if fraction is None else float(fraction), fractions, "fraction")
    history = result.history(metric, split=split)
    history = history[history["fraction"] == fraction]
    series = []
    for k, arm in enumerate(result.arms):
        rows = history[history["arm"] == arm]
        # side by side, so that intervals of many arms do not hide each other
        x = (rows["epoch"] + 0.3 * ((k + 0.5) / len(result.arms) - 0.5)).tolist()
        mean, low, high = _scaled(rows, scale)
        series.append(Series(arm, x, mean, low, high, style=k, bars=True))
    last = int(history["epoch"].max())
    epochs = [(float(epoch), str(epoch)) for epoch in range(1, last + 1)] if last <= _MAX_EPOCHS else None
    ended = ", ".join(f"{one.label} {one.y[-1]:.3g}" for one in series if len(one.y))
    words = f"{'training' if split == 'train' else split} {metric}{unit}"
    return Picture(
        title=", ".join(filter(None, [_subject(result), f"{percent(fraction)} of the data"])),
        summary=f"Mean {words} after the last epoch: {ended}.",
        x=Axis("epoch", (0.7, last + 0.3), epochs),
        y=Axis.around(words, _ends(series)),
        series=tuple(series),
        note=_counted(history["n"].tolist()),
    )


_INTERVAL = ("mean", "low", "high")


def _reading(result: Comparison, metric: str | None) -> tuple[str, float, str]:
    """The metric's name, the factor it is shown with and its unit."""
    from gdrop_viz.finetuning import Comparison

    instance(result, Comparison, "result", "compare")
    if result.runs.empty:
        raise ValueError("the comparison holds no finished run, so there is nothing to draw")
    metric = result.metric if metric is None else metric
    if in_points(metric):
        return metric, 100.0, " (points)"
    classifies = "accuracy" in result.metrics or "matthews" in result.metrics or "f1" in result.metrics
    return metric, 1.0, " (nats)" if metric == "loss" and classifies else ""


def _scaled(rows: pd.DataFrame, scale: float) -> list[list[float]]:
    """Mean and ends of the interval as they are shown; an unknown interval (one seed) is NaN."""
    return [(scale * rows[name].astype(float)).tolist() for name in _INTERVAL]


def _dots(
    label: str, x: list[float], y: list[float], style: int, details: list[str], *, horizontal: bool = False
) -> Series:
    return Series(
        label, x, y, style=style, line=False, faint=True, in_legend=False, details=details, horizontal=horizontal
    )


def _ends(series: Iterable[Series], *, horizontal: bool = False) -> list[float]:
    """All values that the axis must have room for."""
    parts = [part for one in series for part in (one.x if horizontal else one.y, one.low, one.high)]
    return [float(value) for part in parts if part is not None for value in part]


def _subject(result: Comparison) -> str:
    names = ("task", "validation_set", "model")
    return ", ".join(str(result.metadata[name]) for name in names if result.metadata.get(name))


def _counted(counts: Sequence[int]) -> str:
    seeds = sorted({min(counts), max(counts)})
    if seeds == [1]:
        return "one seed, so no interval"
    return f"mean and 95 % interval, {' to '.join(map(str, seeds))} seeds"


def _seeds(count: object) -> str:
    return f"{count} seed{'s' * (str(count) != '1')}"


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
