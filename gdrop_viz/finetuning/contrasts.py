"""Paired differences between two arms of a comparison, per data fraction: tests, change with the data, verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gdrop_viz.base.checks import one_of
from gdrop_viz.finetuning.statistics import PairedTest, holm, paired_test
from gdrop_viz.finetuning.units import in_points, larger_is_better, percent
from gdrop_viz.finetuning.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd


def paired_differences(scores: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Return a - b for every fraction and seed that both arms were run with: columns fraction, seed, value.

    `scores` has the columns arm, fraction, seed, value.
    """
    of_a, of_b = scores[scores["arm"] == a], scores[scores["arm"] == b]
    both = of_a.merge(of_b, on=["fraction", "seed"], suffixes=("_a", "_b"))
    return both.assign(value=both["value_a"] - both["value_b"])[["fraction", "seed", "value"]]


def paired_tests(
    differences: pd.DataFrame, fractions: list[float], *, confidence: float = 0.95
) -> dict[float, PairedTest]:
    """Return the test of each fraction's `differences` (columns fraction, seed, value)."""
    values = {
        fraction: differences.loc[differences["fraction"] == fraction, "value"].to_numpy() for fraction in fractions
    }
    return {fraction: paired_test(found, 0.0 * found, confidence=confidence) for fraction, found in values.items()}


def paired_table(tests: dict[float, PairedTest]) -> pd.DataFrame:
    """Return one row per fraction: fraction, mean, low, high, std, n, p, p_holm."""
    import pandas as pd

    table = pd.DataFrame([{"fraction": fraction, **test._asdict()} for fraction, test in tests.items()])
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def change_with_data(
    differences: pd.DataFrame, fraction: float, reference: float, *, confidence: float = 0.95
) -> PairedTest:
    """Return the test of the differences at `fraction` against those at `reference`, seed by seed."""
    known = sorted(map(float, differences["fraction"].unique()), reverse=True)
    by_seed = differences.pivot(index="seed", columns="fraction", values="value")
    pairs = by_seed[[one_of(float(fraction), known, "fraction"), one_of(float(reference), known, "reference")]].dropna()
    return paired_test(pairs[fraction].to_numpy(), pairs[reference].to_numpy(), confidence=confidence)


def verdict_lines(a: str, b: str, tests: dict[float, PairedTest], metric: str) -> list[str]:
    """Return one sentence per fraction, of p-values corrected by Holm over the fractions."""
    corrected = holm([test.p for test in tests.values()])
    points = in_points(metric)
    return [
        f"{percent(fraction)} of the data, {metric}: "
        + verdict(
            a,
            b,
            test,
            p_adjusted=float(p),
            n_tests=len(tests),
            scale=100.0 if points else 1.0,
            unit="points" if points else f"of {metric}",
            larger_is_better=larger_is_better(metric),
        )
        + "."
        for (fraction, test), p in zip(tests.items(), corrected, strict=True)
    ]
