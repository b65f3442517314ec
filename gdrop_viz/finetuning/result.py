"""Result of a comparison: arms x fractions x seeds as a tidy table, with intervals, paired tests and a verdict."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.checks import one_of
from gdrop_viz.base.saved import load_json, save_json
from gdrop_viz.finetuning import contrasts
from gdrop_viz.finetuning.power import seeds_needed
from gdrop_viz.finetuning.run_table import interval_table, run_table
from gdrop_viz.finetuning.store import RunStore
from gdrop_viz.finetuning.units import in_points, percent

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "gdrop_viz comparison 1"
_KIND = "a saved comparison of this version of gdrop_viz"
_REMEDY = "name a file of result.save(path) or a folder of compare(path=...)"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The finished runs of a comparison and what they say.

    Parameters
    ----------
    runs
        Tidy table with the columns arm, fraction, seed, epoch, split ("train", "validation"), metric, value, seconds
        (since its run began).
    metric
        The task's primary metric, which the methods use unless told otherwise.
    metadata
        Task, model, hyperparameters, mean dropout rate of each arm, and whether all runs were done.

    >>> import pandas as pd
    >>> from gdrop_viz.finetuning.run_table import COLUMNS
    >>> scores = {"standard": [0.70, 0.72, 0.71], "guided": [0.71, 0.74, 0.72]}
    >>> rows = [
    ...     (arm, 1.0, seed, 1, "validation", "accuracy", value, 0.0)
    ...     for arm, values in scores.items() for seed, value in enumerate(values)
    ... ]
    >>> result = Comparison(pd.DataFrame(rows, columns=COLUMNS), metric="accuracy")
    >>> result.summary().round(3)[["arm", "mean", "low", "high", "n"]]
            arm   mean    low   high  n
    0  standard  0.710  0.685  0.735  3
    1    guided  0.723  0.685  0.761  3
    >>> result.paired("guided", "standard").round(3)[["mean", "low", "high", "p"]]
        mean    low   high     p
    0  0.013 -0.001  0.028  0.25
    """

    runs: pd.DataFrame
    metric: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order in which they were given."""
        return list(self.runs["arm"].unique())

    @property
    def fractions(self) -> list[float]:
        """Data fractions, largest first."""
        return sorted(self.runs["fraction"].unique(), reverse=True)

    @property
    def metrics(self) -> list[str]:
        """Metrics of the validation split, the loss among them."""
        return list(self.runs.loc[self.runs["split"] == "validation", "metric"].unique())

    @property
    def validation_sets(self) -> list[str]:
        """Names of the sets that were scored: "validation", and MNLI's "validation_mismatched"."""
        return [split for split in self.runs["split"].unique() if split != "train"]

    def on(self, validation_set: str) -> Comparison:
        """Return the comparison as scored on another of its validation sets; tables, tests and plots then show that.

        Raises
        ------
        ValueError
            If no run was scored on it.
        """
        one_of(validation_set, self.validation_sets, "validation_set")
        if validation_set == "validation":
            return self
        runs = self.runs[self.runs["split"].isin(["train", validation_set])]
        runs = runs.assign(split=runs["split"].replace(validation_set, "validation")).reset_index(drop=True)
        return replace(self, runs=runs, metadata={**self.metadata, "validation_set": validation_set})

    def scores(self, metric: str | None = None) -> pd.DataFrame:
        """Return the validation score of each run after its last epoch: columns arm, fraction, seed, value.

        The last epoch, not the best: the best one would be chosen by looking at the same validation data.
        """
        metric = self._known_metric(metric)
        runs = self.runs[(self.runs["split"] == "validation") & (self.runs["metric"] == metric)]
        last = runs.groupby(["arm", "fraction", "seed"], sort=False)["epoch"].transform("max")
        return runs.loc[runs["epoch"] == last, ["arm", "fraction", "seed", "value"]].reset_index(drop=True)

    def summary(self, metric: str | None = None, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return mean, Student's 95 % interval [low, high], std and n over the seeds, per arm and fraction.

        On the validation split after the last epoch, of the seeds with a finite value; "diverged" counts the others.
        With one seed the interval is NaN: a single run has no spread.
        """
        return interval_table(self.scores(metric), ["arm", "fraction"], confidence)

    def history(
        self, metric: str | None = None, *, split: str = "validation", confidence: float = 0.95
    ) -> pd.DataFrame:
        """Return mean, interval, std and n over the seeds per arm, fraction and epoch, of one split.

        The train split has the metric "loss" only: the mean over the epoch's updates, with dropout on.
        """
        metric = metric or ("loss" if split == "train" else self.metric)
        chosen = (self.runs["split"] == split) & (self.runs["metric"] == metric)
        if not chosen.any():
            known = self.runs[["split", "metric"]].drop_duplicates().itertuples(index=False, name=None)
            raise ValueError(
                f"there is no {metric!r} of the split {split!r}, only {', '.join(' '.join(pair) for pair in known)}"
            )
        return interval_table(self.runs[chosen], ["arm", "fraction", "epoch"], confidence)

    def differences(self, a: str, b: str, metric: str | None = None) -> pd.DataFrame:
        """Return a - b for every fraction and seed that both were run with: columns fraction, seed, value."""
        return self._pairs(a, b, metric)[["fraction", "seed", "value"]]

    def paired(self, a: str, b: str, metric: str | None = None, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return the mean paired difference a - b per fraction with its interval and permutation p-value.

        Columns: fraction, mean, low, high, std (of the differences), n (pairs of finite values), p (exact sign-flip
        test), diverged_a and diverged_b (runs without a finite value, whose pairs are left out) and p_holm (p corrected
        for looking at several fractions). See `gdrop_viz.finetuning.statistics.paired_test`.

        Raises
        ------
        ValueError
            If an arm or the metric is unknown.
        """
        tests = contrasts.paired_tests(self._pairs(a, b, metric), self.fractions, confidence=confidence)
        return contrasts.table_of(tests)

    def paired_ranks(self, a: str, b: str, metric: str | None = None) -> pd.DataFrame:
        """Return a rank test of a against b per fraction in which a diverged run counts, as the worst of all.

        Columns: fraction, better and worse (in how many seeds a was), n (pairs), p (sign flips of the signed ranks) and
        p_holm. See `gdrop_viz.finetuning.statistics.rank_test`.

        Raises
        ------
        ValueError
            If an arm or the metric is unknown.
        """
        pairs = self._pairs(a, b, metric)
        return contrasts.table_of(contrasts.rank_tests(pairs, self.fractions, metric or self.metric))

    def change_with_data(
        self, a: str, b: str, fraction: float, reference: float, metric: str | None = None, *, confidence: float = 0.95
    ) -> pd.Series:
        """Return by how much a - b is larger at `fraction` of the data than at `reference`, seed by seed.

        The claim "a helps more when data are scarce" is about this difference of differences; that one share shows a
        significant gain and the other does not is no test of it. Index: mean, low, high, std, n (seeds that have all
        four runs), p (sign-flip test).

        Raises
        ------
        ValueError
            If an arm, a fraction or the metric is unknown.
        """
        import pandas as pd

        pairs = self._pairs(a, b, metric)
        test = contrasts.change_with_data(pairs, fraction, reference, confidence=confidence)
        return pd.Series(test._asdict()).drop(["diverged_a", "diverged_b"])

    def seeds_needed(
        self,
        effect: float,
        a: str | None = None,
        b: str | None = None,
        metric: str | None = None,
        *,
        alpha: float = 0.05,
        power: float = 0.8,
    ) -> pd.DataFrame:
        """Return how many seeds would find a true difference of `effect` (in the metric's unit: 0.01 is one point).

        One row per fraction and pair of arms (all pairs, those with `a`, or only `a` and `b`): the standard deviation
        of the paired differences seen, the seeds run, and the seeds needed for `verdict`'s rule at level `alpha`, with
        its correction for the number of fractions, to find the effect with probability `power`. What the true spread
        may be, given that it was estimated from so few seeds, is averaged over. NaN where fewer than two were run.
        """
        import pandas as pd

        self._check_arms(*(arm for arm in (a, b) if arm is not None))
        arms = [pair for pair in combinations(self.arms, 2) if {a, b} - {None} <= set(pair)]

        def needed(std: float, n: int) -> float:
            return seeds_needed(effect, std, n_tests=len(self.fractions), alpha=alpha, power=power, std_from=n)

        rows = [
            (*names, fraction, test.std, test.n, needed(test.std, test.n))
            for names in arms
            for fraction, test in contrasts.paired_tests(self._pairs(*names, metric), self.fractions).items()
        ]
        return pd.DataFrame(rows, columns=["a", "b", "fraction", "std", "n", "seeds_needed"])

    def verdict(self, a: str, b: str, metric: str | None = None, *, margin: float | None = None) -> str:
        """Say in plain words whether `a` and `b` differ, one line per data fraction.

        A difference counts as seen if its 95 % interval excludes zero and its permutation p-value, after Holm's
        correction for the number of fractions, is at most 5 %. A difference larger than `margin` counts as excluded if
        two one-sided tests, corrected in the same way, say so at 5 %.

        Parameters
        ----------
        a, b, metric
            Two arms; the metric, by default the task's first.
        margin
            The largest difference that does not matter, in the metric's unit. By default 0.01 (one point) for metrics
            that are read in points; for others nothing is said of it.

        Raises
        ------
        ValueError
            If an arm or the metric is unknown.
        """
        metric = self._known_metric(metric)
        return "\n".join(contrasts.verdict_lines(a, b, self._pairs(a, b, metric), self.fractions, metric, margin))

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the tidy table of runs."""
        return self.runs.copy()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to one JSON file, atomically; NaN becomes null. Return its path."""
        columns = {
            name: [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
            for name, values in self.runs.to_dict("list").items()
        }
        content = {"format": _FORMAT, "metric": self.metric, "metadata": dict(self.metadata), "runs": columns}
        save_json(path, content)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read a file written by `save`, or the finished runs in a folder that `compare(path=...)` writes to.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is nothing, it is something else, or the folder holds runs of several settings.
        """
        path = Path(path)
        if path.is_dir():
            return cls._only_one_in(path)
        content = load_json(path, kind=_KIND, names=("metric", "metadata", "runs"), form=_FORMAT, remedy=_REMEDY)
        try:
            return cls(run_table(content["runs"]), content["metric"], dict(content["metadata"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected {_KIND}, but {path} holds something else ({error}); {_REMEDY}") from None

    @classmethod
    def all_in(cls, folder: str | os.PathLike[str]) -> list[tuple[dict[str, Any], Comparison]]:
        """Return the finished runs in a folder, those of equal settings together: (what they share, comparison).

        Runs of other models, tasks or hyperparameters may lie beside each other and must not be averaged. What they
        share: "model" and "task" (digests) and "hyperparameters".
        """
        comparisons = []
        for common, about, rows in RunStore.open(folder).groups():
            facts = {key: value for key, value in {**about, **common["hyperparameters"]}.items() if key != "arm"}
            comparisons.append((common, cls(run_table(rows), about["metric"], facts)))
        return comparisons

    @classmethod
    def joined(cls, parts: Sequence[Comparison]) -> Comparison:
        """Return one comparison of several that differ in their seeds (each seed may have a task or arms of its own).

        Raises
        ------
        ValueError
            If there is none, or a run comes in two of them.
        """
        import pandas as pd

        parts = list(parts)
        if not parts:
            raise ValueError("expected at least one comparison to join, got none")
        runs = pd.concat([part.runs for part in parts], ignore_index=True)
        repeated = runs[runs.duplicated(["arm", "fraction", "seed", "epoch", "split", "metric"])]
        if not repeated.empty:
            first = repeated.iloc[0]
            raise ValueError(
                f"expected comparisons of different seeds, but {first['arm']!r} at {percent(first['fraction'])} of the "
                f"data with seed {first['seed']} came more than once"
            )
        metadata = {
            **parts[0].metadata,
            "seeds": [seed for part in parts for seed in part.metadata.get("seeds", ())],
            "complete": all(part.metadata.get("complete", True) for part in parts),
        }
        return cls(runs, parts[0].metric, metadata)

    def __repr__(self) -> str:
        runs = len(self.runs.drop_duplicates(["arm", "fraction", "seed"]))
        return f"Comparison({', '.join(self.arms)}; {self._title()}; {runs} runs)"

    def _repr_html_(self) -> str:
        if self.runs.empty:
            return f"<b>{html.escape(self._title())}</b>: no run is finished"
        table = self.summary()
        if not table["diverged"].any():
            table = table.drop(columns="diverged")
        scale = 100 if in_points(self.metric) else 1
        table["fraction"] = table["fraction"].map(percent)
        numbers = ["mean", "low", "high", "std"]
        table[numbers] = (scale * table[numbers]).round(2)
        unit = " in points" if scale == 100 else ""
        note = "" if (table["n"] > 1).any() else "; one seed has no spread, so there is no interval"
        return (
            f"<b>{html.escape(self._title())}</b>: mean{unit} and 95 % interval over seeds, after the last epoch"
            f"{note}{table.to_html(index=False, na_rep='unknown')}"
        )

    def _title(self) -> str:
        parts = [*(self.metadata.get(key) for key in ("task", "validation_set", "model")), self.metric]
        return ", ".join(str(part) for part in parts if part)

    @classmethod
    def _only_one_in(cls, folder: Path) -> Comparison:
        found = [result for _, result in cls.all_in(folder)]
        if not found:
            raise FileNotFoundError(f"{folder} holds no finished run; call compare(..., path={str(folder)!r}) first")
        if len(found) > 1:
            kinds = sorted({f"{result.metadata['model']} on {result.metadata['task']}" for result in found})
            raise ValueError(
                f"{folder} holds runs of {len(found)} different settings ({'; '.join(kinds)}); call compare with the "
                "settings that you mean: it takes only the runs that fit"
            )
        return found[0]

    def _pairs(self, a: str, b: str, metric: str | None) -> pd.DataFrame:
        self._check_arms(a, b)
        return contrasts.paired_scores(self.scores(metric), a, b)

    def _known_metric(self, metric: str | None) -> str:
        metric = self.metric if metric is None else metric
        return metric if self.runs.empty else one_of(metric, self.metrics, "metric")

    def _check_arms(self, *arms: str) -> None:
        for arm in arms:
            one_of(arm, self.arms, "an arm")
        if len(set(arms)) < len(arms):
            raise ValueError(f"expected two different arms, got {arms[0]!r} twice")
