"""How is a comparison written to one file, and found again in a file or in a folder of finished runs?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.saved import load_json, save_json
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.store import RunStore
from gdrop_viz.finetuning.train import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "gdrop_viz comparison 1"
_KIND = "a saved comparison of this version of gdrop_viz"
_REMEDY = "name a file of result.save(path) or a folder of compare(path=...)"


def save(result: Comparison, path: Path) -> Path:
    """Write everything to one JSON file, atomically; NaN becomes null."""
    columns = {
        name: [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
        for name, values in result.runs.to_dict("list").items()
    }
    content = {"format": FORMAT, "metric": result.metric, "metadata": dict(result.metadata), "runs": columns}
    save_json(path, content)
    return path


def load(path: Path) -> Comparison:
    """Read a file written by `save`, or the finished runs in a folder; see `Comparison.load`."""
    if path.is_dir():
        return _only_comparison(path)
    content = load_json(path, kind=_KIND, names=("metric", "metadata", "runs"), form=FORMAT, remedy=_REMEDY)
    try:
        return Comparison(run_table(content["runs"]), content["metric"], dict(content["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected {_KIND}, but {path} holds something else ({error}); {_REMEDY}") from None


def comparisons_in(folder: Path) -> list[tuple[dict[str, Any], Comparison]]:
    """The finished runs in a folder, those of equal settings together: what they have in common, and their table.

    Runs of other models, tasks or hyperparameters may lie beside each other and must not be averaged.
    """
    groups: dict[str, list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]] = {}
    for found in RunStore.open(folder).all():
        groups.setdefault(json.dumps(found[0]["common"], sort_keys=True), []).append(found)
    comparisons = []
    for runs in groups.values():
        common, about = runs[0][0]["common"], runs[0][1]
        rows = [
            {"arm": about["arm"], "fraction": settings["fraction"], "seed": settings["seed"], **row}
            for settings, about, rows in runs
            for row in rows
        ]
        facts = {key: value for key, value in {**about, **common["hyperparameters"]}.items() if key != "arm"}
        comparisons.append((common, Comparison(run_table(rows), about["metric"], facts)))
    return comparisons


def run_table(rows: Any) -> pd.DataFrame:
    """Return rows (or columns) of runs as a DataFrame with the columns and types of `Comparison.runs`."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(COLUMNS))
    types = {"fraction": float, "seed": int, "epoch": int, "value": float, "seconds": float}
    return table.astype(types)


def _only_comparison(folder: Path) -> Comparison:
    found = [result for _, result in comparisons_in(folder)]
    if not found:
        raise FileNotFoundError(f"{folder} holds no finished run; call compare(..., path={str(folder)!r}) first")
    if len(found) > 1:
        kinds = sorted({f"{result.metadata['model']} on {result.metadata['task']}" for result in found})
        raise ValueError(
            f"{folder} holds runs of {len(found)} different settings ({'; '.join(kinds)}); call compare with the "
            "settings that you mean: it takes only the runs that fit"
        )
    return found[0]
