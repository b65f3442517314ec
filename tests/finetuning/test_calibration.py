"""The calibration error against its definition written out, and as a metric of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from gdrop_viz.finetuning import compare
from gdrop_viz.finetuning.calibration import calibration_error


@pytest.mark.parametrize("classes", [2, 5])
def test_bin_by_bin(classes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(400, classes)), rng.integers(classes, size=400)
    probabilities = softmax(logits, axis=1)
    expected = 0.0
    for lower in np.arange(15) / 15:
        confidence = probabilities.max(axis=1)
        inside = (confidence > lower) & (confidence <= lower + 1 / 15)
        if inside.any():
            right = probabilities.argmax(axis=1)[inside] == labels[inside]
            expected += inside.mean() * abs(right.mean() - confidence[inside].mean())
    assert calibration_error(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_certain_predictions():
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    assert calibration_error(logits, np.array([0, 1])) == 0.0
    assert calibration_error(logits, np.array([1, 0])) == 1.0
    assert math.isnan(calibration_error(np.array([[math.nan, 0.0]]), np.array([0])))


def test_labels_drawn_from_the_probabilities_are_calibrated():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(200_000, 2))
    labels = (rng.random(len(logits)) < softmax(logits, axis=1)[:, 1]).astype(int)
    # 8 bins are met, of about 25,000 rows: each is off by at most 0.5 / sqrt(25,000) = 0.003 in the mean
    assert calibration_error(logits, labels) < 0.005


def test_a_run_records_it_beside_accuracy_and_log_loss(tiny_lm, toy_task, monkeypatch):
    seen = {}

    def keep(logits, labels):
        seen["logits"], seen["labels"] = logits, labels
        return calibration_error(logits, labels)

    monkeypatch.setattr("gdrop_viz.finetuning.trainer.calibration_error", keep)
    result = compare(tiny_lm, toy_task, {"a": 0.1}, seeds=[0], epochs=1, learning_rate=1e-2, progress=False)
    assert result.metrics == ["accuracy", "calibration_error", "loss"]
    value = {metric: result.scores(metric)["value"].iloc[0] for metric in result.metrics}
    assert value["calibration_error"] == calibration_error(seen["logits"], seen["labels"])
    log_loss = -log_softmax(seen["logits"], axis=1)[np.arange(len(seen["labels"])), seen["labels"]].mean()
    assert value["loss"] == pytest.approx(log_loss, rel=1e-6)
    assert result.metric == "accuracy"
