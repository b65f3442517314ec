"""Random-effects summary of one comparison made in several studies, with their heterogeneity."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gdrop_viz.base.checks import instance, number, one_of
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.statistics import Values
from gdrop_viz.finetuning.units import in_points, percent

if TYPE_CHECKING:
    import pandas as pd


class RandomEffects(NamedTuple):
    """The mean effect over studies with its interval, and how much the studies differ.

    `tau` is the standard deviation of the true effects between studies, `i_squared` the share of the estimates'
    variance that it makes, `q` Cochran's statistic and `p_heterogeneity` its p-value for "all true effects are equal".
    """

    mean: float
    low: float
    high: float
    n: int
    tau: float
    i_squared: float
    q: float
    p_heterogeneity: float


def random_effects(effects: Values, standard_errors: Values, *, confidence: float = 0.95) -> RandomEffects:
    """Return the mean of the true effects of which `effects` are estimates, as drawn from a wider population.

    Study i estimates y_i with standard error s_i; y_i ~ N(θ_i, s_i²), θ_i ~ N(μ, τ²). τ² is Paule and Mandel's (1982):
    the value at which Σ w_i (y_i - μ)² = k - 1, with w_i = 1 / (s_i² + τ²) and μ = Σ w_i y_i / Σ w_i; 0 if there is
    none. The interval of μ is Hartung and Knapp's (2001), Student's with k - 1 degrees of freedom, which keeps its
    confidence with few studies. I² = max(0, (Q - k + 1) / Q).

    Parameters
    ----------
    effects, standard_errors
        (k,), in one unit; at least two studies, standard errors above 0.

    Raises
    ------
    ValueError
        For fewer than two studies, or values that are not finite and positive.

    >>> found = random_effects([0.1, 0.3, 0.2], [0.1, 0.1, 0.1])
    >>> round(found.mean, 3), found.tau, round(found.low, 3), round(found.high, 3)
    (0.2, 0.0, -0.048, 0.448)
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, t

    number(confidence, "confidence", above=0, below=1)
    y, variances = np.asarray(effects, dtype=float), np.asarray(standard_errors, dtype=float) ** 2
    if y.shape != variances.shape or y.ndim != 1 or len(y) < 2:
        raise ValueError(
            f"expected effects and standard errors of at least two studies, got shapes {y.shape} and {variances.shape}"
        )
    if not (np.isfinite(y).all() and np.isfinite(variances).all() and (variances > 0).all()):
        raise ValueError("expected finite effects and standard errors above 0; leave out studies that have none")
    free = len(y) - 1

    def weighted(tau2: float) -> tuple[np.ndarray, float, float]:
        weights = 1 / (variances + tau2)
        mean = float((weights * y).sum() / weights.sum())
        return weights, mean, float((weights * (y - mean) ** 2).sum())

    q = weighted(0.0)[2]
    tau2, upper = 0.0, float(y.var(ddof=1) + variances.max())
    if q > free:
        while weighted(upper)[2] > free:
            upper *= 2
        tau2 = float(brentq(lambda value: weighted(value)[2] - free, 0.0, upper, xtol=1e-12 * upper))
    weights, mean, spread = weighted(tau2)
    half = float(t.ppf((1 + confidence) / 2, free)) * math.sqrt(spread / free / float(weights.sum()))
    i_squared = max(0.0, (q - free) / q) if q > 0 else 0.0
    return RandomEffects(mean, mean - half, mean + half, len(y), math.sqrt(tau2), i_squared, q, float(chi2.sf(q, free)))


@dataclass(frozen=True, eq=False)
class StudySummary:
    """The paired difference a - b of several studies, and what they say together.

    Parameters
    ----------
    a, b
        Names of the two arms.
    studies
        One row per study: study, metric, mean, low, high, standard_error, n (seeds).
    effect
        Their random-effects summary, in the metrics' unit.
    fraction
        The share of the data at which the studies were compared.
    """

    a: str
    b: str
    studies: pd.DataFrame = field(repr=False)
    effect: RandomEffects
    fraction: float

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the table of studies."""
        return self.studies.copy()

    def sentence(self) -> str:
        """Say in plain words what the studies say together."""
        points = all(map(in_points, self.studies["metric"]))
        scale, unit = (100, "points") if points else (1, f"of {self.studies['metric'].iloc[0]}")
        effect = self.effect
        differ = (
            "the studies differ by more than their seeds explain"
            if effect.p_heterogeneity <= 0.05
            else "the studies do not differ by more than their seeds explain"
        )
        return (
            f"{self.a} - {self.b} at {percent(self.fraction)} of the data over {effect.n} studies: "
            f"{scale * effect.mean:+.2f} {unit} (95 % interval {scale * effect.low:+.2f} to {scale * effect.high:+.2f})"
            f"; {differ} (between studies {scale * effect.tau:.2f} {unit}, I² = {100 * effect.i_squared:.0f} %, "
            f"p = {effect.p_heterogeneity:.2g})."
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.sentence())}</p>{self.studies.to_html(index=False, float_format='{:.4g}'.format)}"


def summarize_studies(
    studies: Mapping[str, Comparison], a: str, b: str, metric: str | None = None, *, fraction: float | None = None
) -> StudySummary:
    """Return the random-effects summary of a - b over comparisons of other models or tasks.

    The studies must be independent: one share of the data of each, since the shares of one study have their seeds in
    common, and one comparison for each model and task.

    Parameters
    ----------
    studies
        Name -> comparison; each is judged by `metric`, or by its own first metric, all of which must have one unit.
    a, b
        Two arms that all of them have.
    fraction
        The share of the data; by default the largest that all have.

    Raises
    ------
    ValueError
        For fewer than two studies, unknown arms or shares, metrics of several units, or a study with fewer than two
        finite pairs or without any spread.
    """
    import pandas as pd

    for name, result in studies.items():
        instance(result, Comparison, f"study {name!r}", "compare")
    shares = [{float(share) for share in result.fractions} for result in studies.values()]
    shared = sorted(set.intersection(*shares), reverse=True) if shares else []
    metrics = {metric or result.metric for result in studies.values()}
    if not shared or (len(metrics) > 1 and not all(map(in_points, metrics))):
        raise ValueError(
            f"expected studies with a share of the data in common and metrics of one unit, got {len(studies)} with the "
            f"shares {', '.join(map(str, shared)) or 'none'} in common and the metrics {', '.join(sorted(metrics))}"
        )
    share = shared[0] if fraction is None else one_of(float(fraction), shared, "fraction")
    rows = []
    for name, result in studies.items():
        tests = result.paired(a, b, metric).set_index("fraction")
        columns = ["mean", "low", "high", "std", "n"]
        mean, low, high, std, n = tests.loc[share, columns].to_numpy(dtype=float)
        error = std / math.sqrt(n) if n > 1 else math.nan
        rows.append((name, metric or result.metric, mean, low, high, error, int(n)))
    table = pd.DataFrame(rows, columns=["study", "metric", "mean", "low", "high", "standard_error", "n"])
    return StudySummary(
        a, b, table, random_effects(table["mean"].to_numpy(), table["standard_error"].to_numpy()), share
    )
