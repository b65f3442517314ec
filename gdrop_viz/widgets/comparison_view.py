"""How does a panel tell what a comparison has found? A picture with intervals, and a sentence per pair of arms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.widgets.picture import Axis, Picture, Series

if TYPE_CHECKING:
    from gdrop_viz.finetuning import Comparison
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task

_SPREAD = 0.6  # how much of the room between two fractions the arms take side by side


def found_results(path: Path, lm: Pretrained, task: Task, settings: Mapping[str, Any]) -> Comparison | None:
    """The finished runs in the folder `path` with this model, task and settings, whatever their arms; None if none."""
    if not path.is_dir():
        return None
    from gdrop_viz.finetuning.classifier import pretrained_digest
    from gdrop_viz.finetuning.result import Comparison

    for common, result in Comparison.all_in(path):
        fits = all(common["hyperparameters"].get(name, value) == value for name, value in settings.items())
        if fits and result.metadata["task"] == task.name and common["model"] == pretrained_digest(lm):
            return result
    return None


def no_results(task: Task, epochs: int) -> Picture:
    """The frame of the results before there are any with so many epochs."""
    return Picture(
        title="Results",
        summary=f"No finished run of {epochs} epoch{'s' * (epochs > 1)} yet.",
        x=Axis("training data used", (-0.5, 0.5), ticks=[(0.0, "100 %")]),
        y=Axis(f"validation {task.metrics[0]}", (0.0, 1.0)),
    )


def result_picture(result: Comparison) -> Picture:
    """Mean of the primary metric with its 95 % interval over seeds, per arm and data fraction."""
    if result.runs.empty:
        raise ValueError("the comparison holds no finished run, so there is nothing to show")
    summary = result.summary()
    fractions = sorted(summary["fraction"].unique())
    arms = [arm for arm in result.arms if arm in set(summary["arm"])]
    series = []
    for k, arm in enumerate(arms):
        rows = summary[summary["arm"] == arm].sort_values("fraction")
        offset = _SPREAD * ((k + 0.5) / len(arms) - 0.5)
        series.append(
            Series(
                arm,
                [fractions.index(fraction) + offset for fraction in rows["fraction"]],
                rows["mean"].tolist(),
                low=rows["low"].tolist(),
                high=rows["high"].tolist(),
                style=k,
                line=False,
                details=[
                    f"{arm}, {100 * row.fraction:g} % of the data, {row.n} seed{'s' * (row.n > 1)}"
                    for row in rows.itertuples()
                ],
            )
        )
    seeds = sorted({summary["n"].min(), summary["n"].max()})
    over = f"{' to '.join(str(n) for n in seeds)} seed{'s' * (seeds != [1])}"
    best = ", ".join(f"{row.arm} {row.mean:.3g}" for row in summary[summary["fraction"] == fractions[-1]].itertuples())
    interval = "no interval: a single seed has no spread" if seeds == [1] else "bars are 95 % intervals"
    return Picture(
        title=f"Results: {result.metric}",
        summary=f"Mean over {over} at {100 * fractions[-1]:g} % of the data: {best}; {interval}.",
        x=Axis(
            "training data used",
            (-0.5, len(fractions) - 0.5),
            ticks=[(k, f"{100 * fraction:g} %") for k, fraction in enumerate(fractions)],
        ),
        y=Axis(f"validation {result.metric}", _room([*summary["mean"], *summary["low"], *summary["high"]])),
        series=tuple(series),
    )


def result_sentences(result: Comparison, reference: str = "standard 0.1") -> list[str]:
    """The verdict on every arm against the reference (or the first arm), one sentence per data fraction."""
    if len(result.arms) < 2:
        return ["One arm alone says nothing about a difference: train a second one."]
    against = reference if reference in result.arms else result.arms[0]
    others = [arm for arm in result.arms if arm != against]
    return [line for arm in others for line in result.verdict(arm, against).splitlines()]


def _room(values: list[float]) -> tuple[float, float]:
    """Bounds with a little air around the finite values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = 0.08 * (high - low) or 0.05
    return low - air, high + air
