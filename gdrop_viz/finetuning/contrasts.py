"""Paired differences between two arms of a comparison, per data fraction: tests, change with the data, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import one_of
from gdrop_viz.finetuning.statistics import PairedTest, RankTest, equivalence_p, holm, paired_test, rank_test
from gdrop_viz.finetuning.units import in_points, larger_is_better, percent
from gdrop_viz.finetuning.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd


# a difference that does not matter, for metrics that are read in points: one point
MARGIN = 0.01


def paired_scores(scores: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Return the scores of both arms for every fraction and seed that both were run with, and a - b.

    `scores` has the columns arm, fraction, seed, value; the result fraction, seed, value_a, value_b, value.
    """
    of_a, of_b = scores[scores["arm"] == a], scores[scores["arm"] == b]
    both = of_a.merge(of_b, on=["fraction", "seed"], suffixes=("_a", "_b"))
    return both.assign(value=both["value_a"] - both["value_b"])[["fraction", "seed", "value_a", "value_b", "value"]]


def paired_tests(pairs: pd.DataFrame, fractions: list[float], *, confidence: float = 0.95) -> dict[float, PairedTest]:
    """Return the paired test of each fraction."""
    return {fraction: paired_test(*_of(pairs, fraction), confidence=confidence) for fraction in fractions}


def rank_tests(pairs: pd.DataFrame, fractions: list[float], metric: str) -> dict[float, RankTest]:
    """Return the rank test of each fraction, with runs without a finite value as the worst."""
    return {
        fraction: rank_test(*_of(pairs, fraction), larger_is_better=larger_is_better(metric)) for fraction in fractions
    }


def table_of(tests: Mapping[float, PairedTest] | Mapping[float, RankTest]) -> pd.DataFrame:
    """Return one row per fraction: the fraction, what its test says, and p corrected by Holm over the fractions."""
    import pandas as pd

    table = pd.DataFrame([{"fraction": fraction, **test._asdict()} for fraction, test in tests.items()])
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def change_with_data(pairs: pd.DataFrame, fraction: float, reference: float, *, confidence: float = 0.95) -> PairedTest:
    """Return the test of the differences at `fraction` against those at `reference`, seed by seed."""
    known = sorted(map(float, pairs["fraction"].unique()), reverse=True)
    by_seed = pairs.pivot(index="seed", columns="fraction", values="value")
    both = by_seed[[one_of(float(fraction), known, "fraction"), one_of(float(reference), known, "reference")]].dropna()
    return paired_test(both[fraction].to_numpy(), both[reference].to_numpy(), confidence=confidence)


def verdict_lines(
    a: str, b: str, pairs: pd.DataFrame, fractions: list[float], metric: str, margin: float | None
) -> list[str]:
    """Return one sentence per fraction, of p-values corrected by Holm over the fractions."""
    points = in_points(metric)
    margin = MARGIN if margin is None and points else margin
    tests, ranks = paired_tests(pairs, fractions), rank_tests(pairs, fractions, metric)
    differ = holm([test.p for test in tests.values()])
    equal = holm([equivalence_p(test.mean, test.std, test.n, margin or MARGIN) for test in tests.values()])
    return [
        f"{percent(fraction)} of the data, {metric}: "
        + verdict(
            a,
            b,
            test,
            p_adjusted=float(p),
            n_tests=len(tests),
            margin=margin,
            p_equivalent=float(p_equal),
            ranks=ranks[fraction],
            scale=100.0 if points else 1.0,
            unit="points" if points else f"of {metric}",
            larger_is_better=larger_is_better(metric),
        )
        + "."
        for (fraction, test), p, p_equal in zip(tests.items(), differ, equal, strict=True)
    ]


def _of(pairs: pd.DataFrame, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    chosen = pairs[pairs["fraction"] == fraction]
    return chosen["value_a"].to_numpy(), chosen["value_b"].to_numpy()
