"""Tidy table of fine-tuning runs: one row per run, epoch, split and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.intervals import student_interval

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("arm", "fraction", "seed", "epoch", "split", "metric", "value", "seconds")
_TYPES = {"fraction": float, "seed": int, "epoch": int, "value": float, "seconds": float}


def run_table(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> pd.DataFrame:
    """Return rows (or columns) of runs as a DataFrame with the columns and types of `Comparison.runs`.

    >>> run_table([]).columns.tolist() == list(COLUMNS)
    True
    """
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(_TYPES)


def interval_table(table: pd.DataFrame, keys: list[str], confidence: float = 0.95) -> pd.DataFrame:
    """Return mean, Student's interval [low, high], std and n of the column "value", for each group of equal `keys`.

    Of the finite values; "diverged" counts the others. Largest fraction first, then the arms as they first come in
    `table`, then the other keys.
    """
    import pandas as pd

    rows = []
    for key, group in table.groupby(keys, sort=False)["value"]:
        values = group.to_numpy(dtype=float)
        finite = values[np.isfinite(values)]
        interval = student_interval(finite, confidence)._asdict()
        rows.append({**dict(zip(keys, key, strict=True)), **interval, "diverged": len(values) - len(finite)})
    frame = pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "std", "n", "diverged"])
    arms = list(table["arm"].unique())
    others = [frame[key] for key in keys if key not in ("fraction", "arm")]
    order = pd.concat([-frame["fraction"], frame["arm"].map(arms.index), *others], axis=1)
    return frame.loc[order.sort_values(list(order.columns), kind="stable").index].reset_index(drop=True)
