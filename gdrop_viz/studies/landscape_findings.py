"""What was found: does the loss rise faster along informative parameters, and is the Fisher diagonal the Hessian's?"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.intervals import rank_agreement, ratio_of_sums
from gdrop_viz.base.saved import DamagedFile, load_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "gdrop_viz landscape findings 2"


@dataclass(frozen=True, eq=False)
class LandscapeFindings:
    """What was measured on one or more models: see `gdrop_viz.studies.landscape`.

    Attributes
    ----------
    rises
        One row per line: model, comparison, moved, seed, norm (of the direction), step (multiple of it), rise (nats
        above the trained weights' loss, at + and - step averaged), standard_error (over sequences, paired).
    curvature
        One row per group of parameters: model, by ("rank of the score", "place" or "all"), group, elements, trace (of
        the Hessian's block) with its standard_error (over sequences, probes included) and the probe_error in it,
        fisher (sum of the scores on the same text). Files from before gave the probes' error as standard_error, and
        have no probe_error.
    settings
        Model -> how it was measured.
    sequences
        One row per group of `curvature` and sequence: model, by, group, trace and fisher of that sequence. Empty for
        files from before.

    >>> from gdrop_viz.models.bundled import data_folder
    >>> findings = LandscapeFindings.load(data_folder() / "landscape_findings")
    >>> "bert-mini" in findings.settings
    True
    """

    rises: pd.DataFrame
    curvature: pd.DataFrame
    settings: Mapping[str, Mapping[str, Any]]
    sequences: pd.DataFrame | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LandscapeFindings:
        """Read what `measure_landscape` has written: the file of one model, or a folder with those of several.

        FileNotFoundError if there is none, DamagedFile (a ValueError) if one is not as it was written.
        """
        import pandas as pd

        path = Path(path)
        files = [path] if path.is_file() else sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(
                f"expected findings in {os.fspath(path)!r}, got none; measure: python -m gdrop_viz landscape-findings"
            )
        found = {file.stem: _read(file) for file in files}
        tables = {
            name: pd.DataFrame([{"model": model, **row} for model, facts in found.items() for row in facts[name]])
            for name in ("rises", "curvature")
        }
        each = [
            pd.DataFrame({"model": model, "by": row["by"], "group": row["group"], "trace": row["traces"]}).assign(
                fisher=row["scores"]
            )
            for model, facts in found.items()
            for row in facts.get("sequences", ())
        ]
        empty = pd.DataFrame(columns=["model", "by", "group", "trace", "fisher"])
        settings = {model: facts["settings"] for model, facts in found.items()}
        return cls(**tables, settings=settings, sequences=pd.concat(each, ignore_index=True) if each else empty)

    def summary(self, step: float = 1.0) -> pd.DataFrame:
        """Return one row per model, comparison and set of parameters: the rise at `step` times the direction.

        Columns: norm; rise (mean over directions), low and high (95 % t interval over directions), lowest, highest,
        directions.
        """
        at = self.rises[self.rises["step"] == step]
        rows = []
        for key, part in at.groupby(["model", "comparison", "moved"], sort=False):
            low, high = _interval(part["rise"])
            row = {"norm": part["norm"].mean(), "rise": part["rise"].mean(), "low": low, "high": high}
            row |= {"lowest": part["rise"].min(), "highest": part["rise"].max(), "directions": len(part)}
            rows.append(dict(zip(("model", "comparison", "moved"), key, strict=True)) | row)
        import pandas as pd

        return pd.DataFrame(rows).set_index(["model", "comparison", "moved"])

    def differences(self, step: float = 1.0) -> pd.DataFrame:
        """Return the rise of the first set of each comparison minus that of each other, paired by direction seed.

        Columns: difference (mean, nats), low and high (95 % t interval), higher (in how many of the directions).
        """
        import pandas as pd

        at = self.rises[self.rises["step"] == step]
        rows = []
        for (model, comparison), part in at.groupby(["model", "comparison"], sort=False):
            first, *others = part["moved"].unique()
            table = part.pivot(index="seed", columns="moved", values="rise")
            for other in others:
                difference = table[first] - table[other]
                low, high = _interval(difference)
                row = {"model": model, "comparison": comparison, "first": first, "other": other}
                row |= {"difference": difference.mean(), "low": low, "high": high}
                rows.append({**row, "higher": int((difference > 0).sum()), "directions": len(difference)})
        return pd.DataFrame(rows).set_index(["model", "comparison", "first", "other"])

    def verdicts(self) -> list[str]:
        """Say in one sentence each what the differences, and Fisher beside Hessian, come to."""
        said = []
        for (model, comparison, first, other), row in self.differences().iterrows():
            span = f"{row['difference']:+.2f} nats, 95 % interval {row['low']:+.2f} to {row['high']:+.2f}"
            if row["low"] > 0:
                told = f"the loss rises more along {first} than along {other}"
            elif row["high"] < 0:
                told = f"the loss rises LESS along {first} than along {other}"
            else:
                told = f"no difference seen between {first} and {other}"
            count = f"higher in {row['higher']:.0f} of {row['directions']:.0f} directions"
            said.append(f"{model}, {comparison}: {told} ({span}; {count}).")
        for model, row in self.fisher_beside_hessian().iterrows():
            if np.isnan(row["low"]):  # a file from before: nothing is known of the text's part
                error = f"± {row['standard_error']:.1f} (random probes alone; other text may differ by more)"
                order = ""
            else:
                error = f"({row['low']:.1f} to {row['high']:.1f}, 95 % interval over {row['sequences']:.0f} sequences)"
                order = f" ({row['rank_low']:.2f} to {row['rank_high']:.2f})"
            said.append(
                f"{model}: Hessian trace / sum of Fisher scores {row['ratio']:.1f} {error}, with "
                f"{row['words']:.1f} predicted words per sequence; their rank correlation over {row['places']:.0f} "
                f"places is {row['rank_correlation']:.2f}{order}; the top 1 % by score (on other text) hold "
                f"{row['fisher_in_top']:.0%} of the Fisher scores and {row['trace_in_top']:.0%} of the trace."
            )
        return said

    def fisher_beside_hessian(self) -> pd.DataFrame:
        """Return one row per model: how the Fisher diagonal compares with the Hessian's on the same text.

        Columns: ratio = trace / sum of scores; its standard_error, made up (in squares) of the random probes' part and
        the text's, probe_error and text_error; low and high, its 95 % interval over sequences; words per sequence (the
        ratio that independent words would give); rank_correlation (Spearman) of mean Hessian diagonal and mean score
        over places with rank_low and rank_high; share of either sum in the 1 % with the highest scores on another
        text; sequences. How: `gdrop_viz.base.intervals`. A file from before sequences were kept apart knows
        the probes' error alone: the text's, and both intervals, are NaN.
        """
        import pandas as pd

        rows = []
        for model, part in self.curvature.groupby("model", sort=False):
            whole = part[part["by"] == "all"].iloc[0]
            ranks, places = part[part["by"] == "rank of the score"], part[part["by"] == "place"]
            top = ranks.iloc[:2]  # to 0.1 %, to 1 %
            row = {"model": model, **self._ratio(model, whole)}
            row |= {"words": self.settings[model]["words_per_sequence"], "places": len(places)}
            row |= self._agreement(model, places)
            row |= {f"{name}_in_top": top[name].sum() / whole[name] for name in ("fisher", "trace")}
            rows.append(row)
        return pd.DataFrame(rows).set_index("model")

    def _each(self, model: str, by: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Traces and scores of each sequence, both (N, groups); None where they were not kept."""
        if self.sequences is None or not len(self.sequences):
            return None
        part = self.sequences[(self.sequences["model"] == model) & (self.sequences["by"] == by)]
        if not len(part):
            return None
        groups = part.groupby("group", sort=False)
        return tuple(np.stack([group[name] for _, group in groups], axis=1) for name in ("trace", "fisher"))

    def _ratio(self, model: str, whole: pd.Series) -> dict[str, float]:
        each = self._each(model, "all")
        ratio, error = whole["trace"] / whole["fisher"], whole["standard_error"] / whole["fisher"]
        if each is None:
            nothing = dict.fromkeys(("text_error", "low", "high", "sequences"), np.nan)
            return {"ratio": ratio, "standard_error": error, "probe_error": error, **nothing}
        return ratio_of_sums(*each, probe_error=whole["probe_error"]) | {"sequences": len(each[0])}

    def _agreement(self, model: str, places: pd.DataFrame) -> dict[str, float]:
        each, sizes = self._each(model, "place"), places["elements"].to_numpy()
        if each is None:
            means = places[["trace", "fisher"]].div(sizes, axis=0)
            found = {"rank_correlation": means.corr("spearman").iloc[0, 1], "low": np.nan, "high": np.nan}
        else:
            found = rank_agreement(*(values / sizes for values in each))
        return {"rank_correlation": found["rank_correlation"], "rank_low": found["low"], "rank_high": found["high"]}

    def __repr__(self) -> str:
        return f"LandscapeFindings({', '.join(self.settings)}: {len(self.rises)} rises, {len(self.curvature)} traces)"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(float_format=lambda value: f"{value:.3g}")
        return f"<p>{html.escape(repr(self))}</p>{table}"


def _read(file: Path) -> dict[str, Any]:
    remedy = "restore it, or measure again: python -m gdrop_viz landscape-findings"
    kind, names = "a file of landscape findings", ("settings", "rises", "curvature")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{file} is not {kind}: damaged, or not JSON ({error}); {remedy}") from None
    if isinstance(content, dict) and set(content) == set(names):  # from before there were checksums
        return content
    return load_json(file, kind=kind, names=(*names, "sequences"), form=FORMAT, remedy=remedy)


def _interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % t interval of a mean."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
