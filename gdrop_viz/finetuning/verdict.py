"""Verdict on a paired comparison: one plain sentence."""

from __future__ import annotations

import math

from gdrop_viz.finetuning.power import detectable_effect, least_seeds, smallest_p
from gdrop_viz.finetuning.statistics import PairedTest


def verdict(
    a: str,
    b: str,
    test: PairedTest,
    *,
    p_adjusted: float | None = None,
    n_tests: int = 1,
    scale: float = 100.0,
    unit: str = "points",
    larger_is_better: bool = True,
    alpha: float = 0.05,
    power: float = 0.8,
) -> str:
    """Say in one plain sentence what a paired comparison has shown.

    A difference counts as seen if its interval excludes zero and its permutation p-value (after Holm's correction, if
    given) is at most `alpha`. If only the interval excludes zero it is called a hint. Otherwise the sentence says
    how large a difference would have been found with probability `power`, at the level `alpha / n_tests` that the
    strictest of `n_tests` corrected tests must reach.

    >>> from gdrop_viz.finetuning.statistics import paired_test
    >>> print(verdict("guided", "standard", paired_test([0.71, 0.70, 0.72, 0.69], [0.70, 0.70, 0.71, 0.70])))
    guided and standard: no difference seen (+0.25 points, 95 % interval -1.27 to +1.77, p = 1, 4 seeds); ...
    """
    if test.n == 0:
        return f"{a} and {b}: no seed was run for both, so nothing can be said"
    if math.isnan(test.mean):
        return f"{a} and {b}: a run has no finite value (it diverged or predicts a constant), so nothing can be said"
    mean, least = f"{scale * test.mean:+.2f} {unit}", least_seeds(alpha / n_tests)
    if test.n == 1:
        return (
            f"{a} and {b}: {mean} with a single seed, whose spread is unknown: no interval, no p-value; run at least "
            f"{least} seeds"
        )
    p = test.p if p_adjusted is None else p_adjusted
    corrected = "" if p_adjusted is None or math.isclose(p, test.p) else " after Holm's correction"
    facts = f"95 % interval {scale * test.low:+.2f} to {scale * test.high:+.2f}, p = {p:.2g}{corrected}, {test.n} seeds"
    better = "better" if (test.mean > 0) == larger_is_better else "worse"
    excludes_zero = test.low > 0 or test.high < 0
    if excludes_zero and p <= alpha:
        return f"{a} is {better} than {b}: {mean} ({facts})"
    if excludes_zero:
        why = (
            f"{test.n} seeds cannot give p below {smallest_p(test.n) * n_tests:.2g}: run at least {least}"
            if test.n < least
            else f"p is not below {alpha:g}: run more seeds"
        )
        return f"{a} seems {better} than {b}: {mean} ({facts}), a hint and no finding, since {why}"
    if test.std == 0 == test.mean:
        return f"{a} and {b}: the same score in every run ({test.n} seeds), so what would have shown is unknown"
    effect = scale * detectable_effect(test.std, test.n, alpha=alpha / n_tests, power=power)
    only_hint = f", and only as a hint: run at least {least} seeds" if test.n < least else ""
    return (
        f"{a} and {b}: no difference seen ({mean}, {facts}); an effect above {effect:.2g} {unit} would have shown "
        f"(with {100 * power:.0f} % probability{only_hint})"
    )
