"""Verdict on a paired comparison: one plain sentence."""

from __future__ import annotations

import math

from gdrop_viz.finetuning.power import detectable_effect, least_seeds, smallest_p
from gdrop_viz.finetuning.statistics import PairedTest, RankTest, equivalence_p


def verdict(
    a: str,
    b: str,
    test: PairedTest,
    *,
    p_adjusted: float | None = None,
    n_tests: int = 1,
    margin: float | None = None,
    p_equivalent: float | None = None,
    ranks: RankTest | None = None,
    scale: float = 100.0,
    unit: str = "points",
    larger_is_better: bool = True,
    alpha: float = 0.05,
    power: float = 0.8,
) -> str:
    """Say in one plain sentence what a paired comparison has shown.

    A difference counts as seen if its interval excludes zero and its permutation p-value (after Holm's correction, if
    given) is at most `alpha`. If only the interval excludes zero it is called a hint. Otherwise the sentence says how
    large a difference this rule would have found with probability `power`, in the strictest place of `n_tests`
    corrected tests, and with what the spread may be given that it was estimated.

    Parameters
    ----------
    a, b
        Names of the two arms.
    test
        Their paired test.
    p_adjusted, n_tests
        The p-value corrected for `n_tests` tests.
    margin
        A difference smaller than this (in the unit of `test`) does not matter: two one-sided tests say whether larger
        ones are excluded. None asks nothing.
    p_equivalent
        Their p-value after a correction; by default without one.
    ranks
        The rank test with diverged runs as the worst, told where there are any.
    scale, unit
        Factor and name of the unit that the sentence speaks in.

    >>> from gdrop_viz.finetuning.statistics import paired_test
    >>> print(verdict("guided", "standard", paired_test([0.71, 0.70, 0.72, 0.69], [0.70, 0.70, 0.71, 0.70])))
    guided and standard: no difference seen (+0.25 points, 95 % interval -1.27 to +1.77, p = 1, 4 seeds); 4 seeds can
    show a difference only as a hint: run at least 6
    """
    lost = _left_out(a, b, test, ranks)
    if test.n == 0:
        why = "no seed gave both a finite value" if lost else "no seed was run for both"
        return f"{a} and {b}: {why}, so nothing can be said of their mean difference{lost}"
    mean, least = f"{scale * test.mean:+.2f} {unit}", least_seeds(alpha / n_tests)
    if test.n == 1:
        return (
            f"{a} and {b}: {mean} with a single seed, whose spread is unknown: no interval, no p-value; run at least "
            f"{least} seeds{lost}"
        )
    p = test.p if p_adjusted is None else p_adjusted
    corrected = "" if p_adjusted is None or math.isclose(p, test.p) else " after Holm's correction"
    facts = f"95 % interval {scale * test.low:+.2f} to {scale * test.high:+.2f}, p = {p:.2g}{corrected}, {test.n} seeds"
    better = "better" if (test.mean > 0) == larger_is_better else "worse"
    excludes_zero = test.low > 0 or test.high < 0
    within = ""
    if margin is not None:
        p_within = equivalence_p(test.mean, test.std, test.n, margin) if p_equivalent is None else p_equivalent
        size = f"{scale * margin:g} {unit.removesuffix('s') if scale * margin == 1 else unit}"
        excluded = f"; a difference larger than {size} is excluded (two one-sided tests, p = {p_within:.2g})"
        within = excluded if p_within <= alpha else f"; whether it is larger than {size} is undecided"
    if excludes_zero and p <= alpha:
        return f"{a} is {better} than {b}: {mean} ({facts}){within}{lost}"
    if excludes_zero:
        why = (
            f"{test.n} seeds cannot give p below {smallest_p(test.n) * n_tests:.2g}: run at least {least}"
            if test.n < least
            else f"p is not below {alpha:g}: run more seeds"
        )
        return f"{a} seems {better} than {b}: {mean} ({facts}), a hint and no finding, since {why}{within}{lost}"
    if test.std == 0 == test.mean:
        return f"{a} and {b}: the same score in every run ({test.n} seeds), so what would have shown is unknown{lost}"
    effect = scale * detectable_effect(test.std, test.n, n_tests=n_tests, alpha=alpha, power=power, std_from=test.n)
    would_show = (
        f"{test.n} seeds can show a difference only as a hint: run at least {least}"
        if math.isinf(effect)
        else f"an effect above {effect:.2g} {unit} would have shown (with {100 * power:.0f} % probability)"
    )
    return f"{a} and {b}: no difference seen ({mean}, {facts}){within}; {would_show}{lost}"


def _left_out(a: str, b: str, test: PairedTest, ranks: RankTest | None) -> str:
    """Return the part of the sentence about runs without a finite value; nothing where there are none."""
    counts = [(arm, count) for arm, count in ((a, test.diverged_a), (b, test.diverged_b)) if count]
    if not counts:
        return ""
    runs = " and ".join(f"{count} run{'s' * (count > 1)} of {arm}" for arm, count in counts)
    ranked = (
        f"; counted as the worst, they leave {a} better in {ranks.better} and worse in {ranks.worse} of {ranks.n} "
        f"seeds (rank test, p = {ranks.p:.2g})"
        if ranks is not None
        else ""
    )
    return f"; left out: {runs} without a finite value (diverged){ranked}"
