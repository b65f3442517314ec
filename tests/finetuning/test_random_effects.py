"""A summary over studies agrees with closed forms and with a published example."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from gdrop_viz.base.intervals import student_interval
from gdrop_viz.finetuning import Comparison
from gdrop_viz.finetuning.random_effects import random_effects, summarize_studies
from gdrop_viz.finetuning.run_table import COLUMNS

# vaccination against tuberculosis (Colditz et al. 1994), the example of most textbooks: cases and others among the
# vaccinated, cases and others among the controls
TRIALS = np.array(
    [
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761),
        (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892), (29, 7470, 45, 7232),
        (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825),
    ]
)  # fmt: skip


def test_the_textbook_example():
    """Figures of metafor's rma(yi, vi, method="PM") for dat.bcg: Q 152.2330, tau² 0.3181, mean -0.7150."""
    cases, others, control_cases, control_others = TRIALS.T
    ratio = np.log(cases / (cases + others)) - np.log(control_cases / (control_cases + control_others))
    variance = 1 / cases - 1 / (cases + others) + 1 / control_cases - 1 / (control_cases + control_others)
    found = random_effects(ratio, np.sqrt(variance))
    assert found.q == pytest.approx(152.2330, abs=1e-4)
    assert found.tau**2 == pytest.approx(0.3181, abs=1e-4)
    assert found.mean == pytest.approx(-0.7150, abs=1e-4)
    assert found.i_squared == pytest.approx((152.2330 - 12) / 152.2330, abs=1e-5)


def test_with_equal_errors_the_interval_is_students():
    effects = np.array([0.1, 0.9, -0.4, 0.3])
    found = random_effects(effects, np.full(4, 0.2))
    expected = student_interval(effects)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert found.tau**2 == pytest.approx(effects.var(ddof=1) - 0.04)
    assert found.p_heterogeneity == pytest.approx(
        scipy.stats.chi2.sf(((effects - effects.mean()) ** 2).sum() / 0.04, 3)
    )


def test_equal_studies_have_no_heterogeneity():
    found = random_effects([0.2, 0.2, 0.2], [0.1, 0.2, 0.3])
    assert (found.tau, found.i_squared, found.q) == (0.0, 0.0, pytest.approx(0.0, abs=1e-12))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    errors = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    draws = 1.0 + 0.3 * rng.normal(size=(1500, 5)) + errors * rng.normal(size=(1500, 5))
    covered = np.mean([(found := random_effects(row, errors)).low <= 1.0 <= found.high for row in draws])
    # four standard errors of a share of 1500, and what is known of the method: within 0.01 of its confidence
    assert covered == pytest.approx(0.95, abs=0.01 + 4 * math.sqrt(0.95 * 0.05 / 1500))


def study(difference, seed, metric="accuracy", fractions=(1.0, 0.25)):
    rng = np.random.default_rng(seed)
    rows = []
    for fraction in fractions:
        for number in range(8):
            base = rng.normal(0.8, 0.02)
            for arm, value in (("b", base), ("a", base + difference + rng.normal(0, 0.01))):
                rows.append((arm, fraction, number, 1, "validation", metric, value, 0.0))
    return Comparison(pd.DataFrame(rows, columns=COLUMNS), metric)


def test_studies_are_put_together():
    studies = {"one": study(0.02, 1), "two": study(0.02, 2, "matthews"), "three": study(-0.05, 3)}
    found = summarize_studies(studies, "a", "b")
    row = studies["two"].paired("a", "b").set_index("fraction").loc[1.0]
    assert found.studies.set_index("study").loc["two", "standard_error"] == pytest.approx(row["std"] / math.sqrt(8))
    assert found.effect == random_effects(found.studies["mean"], found.studies["standard_error"])
    assert "over 3 studies" in found.sentence()
    assert "the studies differ by more than their seeds explain" in found.sentence()
    assert found.sentence().startswith(
        f"a - b at 100 % of the data over 3 studies: {100 * found.effect.mean:+.2f} points"
    )
    alike = summarize_studies({"one": studies["one"], "two": studies["two"]}, "a", "b", fraction=0.25)
    assert "do not differ" in alike.sentence()
    assert "25 % of the data" in alike._repr_html_()


def test_what_cannot_be_put_together():
    one, other = study(0.02, 1), study(0.02, 2, "loss")
    for studies, message in (
        ({}, "got 0 with the shares none in common"),
        ({"one": one}, "at least two studies"),
        ({"one": one, "other": other}, "metrics of one unit"),
        ({"one": one, "other": study(0.0, 2, fractions=(0.5,))}, "shares none in common"),
    ):
        with pytest.raises(ValueError, match=message):
            summarize_studies(studies, "a", "b")
    with pytest.raises(ValueError, match=r"expected fraction to be one of 1\.0, 0\.25, got 0\.5"):
        summarize_studies({"one": one, "two": one}, "a", "b", fraction=0.5)
    with pytest.raises(ValueError, match="standard errors above 0"):
        random_effects([0.1, 0.2], [0.1, 0.0])
