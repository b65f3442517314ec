"""Rank stability of the scores: after how many sequences the order of the layers is settled, by a bootstrap.

The paper takes 1 % of the corpus and shows that the scores look alike (its Table 1). Here the question has a measured
answer: how well does the order from n sequences agree with the order that n other sequences would have given?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from gdrop_viz.base.intervals import spearman
from gdrop_viz.models.anatomy import places_of
from gdrop_viz.sites import dropout_sites

if TYPE_CHECKING:
    import pandas as pd

_ENOUGH = 0.95  # Spearman correlation that counts as "the same order"
_FEWEST = 16
_DRAWS = 200


def bootstrap_agreement(history: np.ndarray, *, draws: int = _DRAWS, seed: int = 0) -> np.ndarray:
    """Spearman correlations between the orders of pairs of bootstrap samples of the rows of `history` (rows, groups).

    Each pair stands for two texts of this length: the correlations tell how reproducible the order of the groups is.
    """
    generator = np.random.default_rng(seed)
    rows = len(history)
    means = generator.multinomial(rows, np.full(rows, 1 / rows), size=2 * draws) @ history / rows
    agreement = spearman(means[:draws], means[draws:])
    return np.where(np.isnan(agreement), 1.0, agreement)  # where all groups are equal, no order can change


def stability(
    history: pd.DataFrame, groups: Mapping[str, Sequence[str]] | None = None, *, points: int = 12, seed: int = 0
) -> pd.DataFrame:
    """Rank stability against the number of sequences.

    Parameters
    ----------
    history
        `fisher.history`: mean scores per tensor (columns) of successive sequences (rows).
    groups
        {group: parameter names}; a group's score is the unweighted mean of its tensors' means (Sharma et al., 2024).
        Layers x components by default.
    points
        Numbers of sequences to look at, spaced evenly on a logarithmic axis.
    seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per number of sequences n: "correlation with all", the Spearman correlation of the order after n
        sequences with the order of all of them; "agreement", "low" and "high", the bootstrap's median and 95 % interval
        of the Spearman correlation between two texts of n sequences.

    Raises
    ------
    ValueError
        With fewer than 4 sequences.

    Examples
    --------
    >>> import pandas as pd
    >>> history = pd.DataFrame({f"h.{layer}.mlp.c_fc.weight": [layer + 1.0] * 8 for layer in range(3)})
    >>> stability(history, points=2)["agreement"].tolist()
    [1.0, 1.0]
    """
    import pandas as pd

    values = grouped_history(history.to_numpy(), list(history.columns), groups or by_place(list(history.columns)))
    n = len(values)
    if n < 4:
        raise ValueError(f"rank stability needs at least 4 sequences, got {n}: estimate on more text.")
    final = values.mean(0)
    sizes = np.unique(np.geomspace(4, n, points).round().astype(int))
    rows = []
    for size in sizes:
        agreement = bootstrap_agreement(values[:size], seed=seed)
        low, median, high = np.quantile(agreement, [0.025, 0.5, 0.975])
        rows.append((int(size), float(spearman(values[:size].mean(0), final)), median, low, high))
    return pd.DataFrame(rows, columns=["sequences", "correlation with all", "agreement", "low", "high"])


def is_stable(model: nn.Module, history: np.ndarray, names: list[str], confidence: float) -> bool:
    """Whether two texts of this length would agree on the order of the dropout sites, at the stated confidence."""
    n = len(history)
    # a bootstrap after every batch would cost more than the batches: ask when the text has grown by a tenth
    if n < _FEWEST or int(np.log(n) / np.log(1.1)) == int(np.log(n - 1) / np.log(1.1)):
        return False
    values = grouped_history(history, names, _sites(model, names))
    return bool(np.quantile(bootstrap_agreement(values), 1 - confidence) >= _ENOUGH)


def by_place(names: Sequence[str]) -> dict[str, list[str]]:
    """Group parameter names by layer and component."""
    groups: dict[str, list[str]] = {}
    for name, place in places_of(names).items():
        groups.setdefault(f"{place.label} {place.component}", []).append(name)
    return groups


def grouped_history(values: np.ndarray, names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Mean over each group's tensors: (rows, groups)."""
    column = {name: index for index, name in enumerate(names)}
    return np.stack([values[:, [column[name] for name in members]].mean(1) for members in groups.values()], axis=1)


def _sites(model: nn.Module, names: list[str]) -> dict[str, list[str]]:
    """The model's dropout sites and the parameters they follow; layers x components where it has none."""
    known = set(names)
    try:
        sites = dropout_sites(model)
    except (ValueError, TypeError, RuntimeError):
        return by_place(names)
    groups = {}
    for site in sites:
        members = [name for name in names if any(name == p or name.endswith(f".{p}") for p in site.parameters)]
        if members and site.kind != "head" and known.issuperset(members):
            groups[site.name] = members
    return groups if len(groups) > 2 else by_place(names)
