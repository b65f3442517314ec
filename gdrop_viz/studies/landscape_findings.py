"""Findings of the landscape study: the loss along informative parameters, and the Fisher diagonal beside the Hessian's.

What `gdrop_viz.studies.landscape` measures, one JSON file a model, and the tables and sentences made of it.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.files import atomic_path
from gdrop_viz.base.intervals import rank_agreement, ratio_of_sums, student_interval
from gdrop_viz.base.saved import json_seal, load_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "gdrop_viz landscape findings 2"
_MEASURE = "python -m gdrop_viz landscape-findings"


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
        fisher (sum of the scores on the same text).
    settings
        Model -> how it was measured.
    sequences
        One row per group of `curvature` and sequence: model, by, group, trace and fisher of that sequence.

    Examples
    --------
    >>> from gdrop_viz.models.bundled import data_folder
    >>> findings = LandscapeFindings.load(data_folder() / "landscape_findings")
    >>> "bert-mini" in findings.settings
    True
    """

    rises: pd.DataFrame
    curvature: pd.DataFrame
    settings: Mapping[str, Mapping[str, Any]]
    sequences: pd.DataFrame

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LandscapeFindings:
        """Read what `measure_landscape` has written: the file of one model, or a folder with those of several.

        Raises
        ------
        FileNotFoundError
            If there is none.
        DamagedFile
            If one is not as it was written; it is a ValueError.
        """
        import pandas as pd

        path = Path(path)
        files = [path] if path.is_file() else sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(f"expected findings in {os.fspath(path)!r}, got none; measure: {_MEASURE}")
        names, remedy = ("settings", "rises", "curvature", "sequences"), f"restore it, or measure again: {_MEASURE}"
        found = {
            file.stem: load_json(file, kind="a file of landscape findings", names=names, form=FORMAT, remedy=remedy)
            for file in files
        }
        tables = {
            name: pd.DataFrame([{"model": model, **row} for model, facts in found.items() for row in facts[name]])
            for name in ("rises", "curvature")
        }
        sequences = pd.concat(
            [
                pd.DataFrame({"model": model, "by": row["by"], "group": row["group"], "trace": row["traces"]}).assign(
                    fisher=row["scores"]
                )
                for model, facts in found.items()
                for row in facts["sequences"]
            ],
            ignore_index=True,
        )
        settings = {model: facts["settings"] for model, facts in found.items()}
        return cls(**tables, settings=settings, sequences=sequences)

    def summary(self, step: float = 1.0) -> pd.DataFrame:
        """Return the rise of each set of parameters at `step` times the direction.

        Returns
        -------
        DataFrame
            One row per model, comparison and set: norm; rise (nats, mean over directions), low and high (95 % t
            interval over directions), lowest, highest, directions.
        """
        import pandas as pd

        keys, rows = ["model", "comparison", "moved"], []
        for key, part in _grouped(self.rises[self.rises["step"] == step], keys):
            rise = student_interval(part["rise"].to_numpy())
            row = {"norm": part["norm"].mean(), "rise": rise.mean, "low": rise.low, "high": rise.high}
            row |= {"lowest": part["rise"].min(), "highest": part["rise"].max(), "directions": rise.n}
            rows.append(key | row)
        return pd.DataFrame(rows).set_index(keys)

    def differences(self, step: float = 1.0) -> pd.DataFrame:
        """Return the rise of the first set of each comparison minus that of each other, paired by direction seed.

        Returns
        -------
        DataFrame
            One row per model, comparison and other set: difference (nats, mean), low and high (95 % t interval),
            higher (in how many of the directions), directions.
        """
        import pandas as pd

        rows = []
        for key, part in _grouped(self.rises[self.rises["step"] == step], ["model", "comparison"]):
            first, *others = part["moved"].unique()
            table = part.pivot(index="seed", columns="moved", values="rise")
            for other in others:
                difference = (table[first] - table[other]).to_numpy()
                mean, low, high, _, n = student_interval(difference)
                row = {"first": first, "other": other, "difference": mean, "low": low, "high": high}
                rows.append({**key, **row, "higher": int((difference > 0).sum()), "directions": n})
        return pd.DataFrame(rows).set_index(["model", "comparison", "first", "other"])

    def verdicts(self) -> list[str]:
        """Say in one sentence each what the differences, and Fisher beside Hessian, come to."""
        said = []
        for row in self.differences().reset_index().to_dict("records"):
            first, other = row["first"], row["other"]
            if row["low"] > 0:
                verdict = f"the loss rises more along {first} than along {other}"
            elif row["high"] < 0:
                verdict = f"the loss rises LESS along {first} than along {other}"
            else:
                verdict = f"no difference seen between {first} and {other}"
            said.append(
                f"{row['model']}, {row['comparison']}: {verdict} ({row['difference']:+.2f} nats, 95 % interval "
                f"{row['low']:+.2f} to {row['high']:+.2f}; higher in {row['higher']} of {row['directions']} "
                "directions)."
            )
        for row in self.fisher_beside_hessian().reset_index().to_dict("records"):
            said.append(
                f"{row['model']}: Hessian trace / sum of Fisher scores {row['ratio']:.1f} ({row['low']:.1f} to "
                f"{row['high']:.1f}, 95 % interval over {row['sequences']} sequences), with {row['words']:.1f} "
                f"predicted words per sequence; their rank correlation over {row['places']} places is "
                f"{row['rank_correlation']:.2f} ({row['rank_low']:.2f} to {row['rank_high']:.2f}); the top 1 % by "
                f"score (on other text) hold {row['fisher_in_top']:.0%} of the Fisher scores and "
                f"{row['trace_in_top']:.0%} of the trace."
            )
        return said

    def fisher_beside_hessian(self) -> pd.DataFrame:
        """Return one row per model: how the Fisher diagonal compares with the Hessian's on the same text.

        Returns
        -------
        DataFrame
            ratio = trace / sum of scores; its standard_error, made up (in squares) of the random probes' part and the
            text's, probe_error and text_error; low and high, its 95 % interval over sequences; words per sequence
            (the ratio that independent words would give); rank_correlation (Spearman) of mean Hessian diagonal and
            mean score over places with rank_low and rank_high; fisher_in_top and trace_in_top, the share of either
            sum in the 1 % with the highest scores on another text; sequences. How: `gdrop_viz.base.intervals`.
        """
        import pandas as pd

        rows = []
        for key, part in _grouped(self.curvature, ["model"]):
            model = key["model"]
            whole = part[part["by"] == "all"].iloc[0]
            places, ranks = part[part["by"] == "place"], part[part["by"] == "rank of the score"]
            traces, scores = self._by_sequence(model, "all")
            row: dict[str, Any] = ratio_of_sums(traces, scores, probe_error=whole["probe_error"])
            row |= {"sequences": len(traces), "places": len(places)}
            row["words"] = self.settings[model]["words_per_sequence"]
            traces, scores = (sums / places["elements"].to_numpy() for sums in self._by_sequence(model, "place"))
            agreement = rank_agreement(traces, scores)
            row |= {"rank_correlation": agreement["rank_correlation"]}
            row |= {"rank_low": agreement["low"], "rank_high": agreement["high"]}
            top = ranks.iloc[:2]  # to 0.1 %, to 1 %
            row |= {f"{name}_in_top": top[name].sum() / whole[name] for name in ("fisher", "trace")}
            rows.append(key | row)
        return pd.DataFrame(rows).set_index("model")

    def _by_sequence(self, model: str, by: str) -> tuple[np.ndarray, np.ndarray]:
        """Traces and scores of each sequence, both (N, groups)."""
        part = self.sequences[(self.sequences["model"] == model) & (self.sequences["by"] == by)]
        groups = [group for _, group in part.groupby("group", sort=False)]
        traces, scores = (np.stack([group[name] for group in groups], axis=1) for name in ("trace", "fisher"))
        return traces, scores

    def __repr__(self) -> str:
        return f"LandscapeFindings({', '.join(self.settings)}: {len(self.rises)} rises, {len(self.curvature)} traces)"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(float_format=lambda value: f"{value:.3g}")
        return f"<p>{html.escape(repr(self))}</p>{table}"


def save_findings(path: Path, settings: Mapping[str, Any], **tables: list[dict[str, Any]]) -> None:
    """Write the file of one model, sealed, one row of `tables` per line: a change shows as what it is."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [float(f"{number:.4g}") for number in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    parts = [f'"format": {json.dumps(FORMAT)}', f'"settings": {json.dumps(settings)}']
    for name, table in tables.items():
        rows = ",\n".join(json.dumps({key: short(value) for key, value in row.items()}) for row in table)
        parts.append(f'"{name}": [\n{rows}\n]')
    seal = json_seal(json.loads("{" + ",".join(parts) + "}"))
    with atomic_path(path) as temporary:
        temporary.write_text("{" + ",\n".join([*parts, seal]) + "}\n", encoding="utf-8")


def _grouped(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The groups in the table's order, each with its keys by name."""
    for _, part in table.groupby(keys, sort=False):
        yield {key: part[key].iloc[0] for key in keys}, part
