"""Finished runs on disk as a panel shows them: which fit, their verdicts, and the frame before there are any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.plots.picture import Axis, Picture

if TYPE_CHECKING:
    from gdrop_viz.finetuning import Comparison
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task


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
        x=Axis("share of the training data", (-0.5, 0.5), ticks=[(0.0, "100 %")]),
        y=Axis(f"validation {task.metrics[0]}", (0.0, 1.0)),
    )


def result_sentences(result: Comparison, reference: str = "standard 0.1") -> list[str]:
    """The verdict on every arm against the reference (or the first arm), one sentence per data fraction."""
    if len(result.arms) < 2:
        return ["One arm alone says nothing about a difference: train a second one."]
    against = reference if reference in result.arms else result.arms[0]
    others = [arm for arm in result.arms if arm != against]
    return [line for arm in others for line in result.verdict(arm, against).splitlines()]
