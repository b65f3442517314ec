"""Guided dropout: one rate per site, from the Fisher information of the parameters that it follows."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from gdrop_viz.base.checks import few, one_of
from gdrop_viz.dropout.schedule import DropoutSchedule
from gdrop_viz.models.backbone import Backbone, backbone_of, plain_name, unwrapped
from gdrop_viz.sites.rates import between, bounds
from gdrop_viz.sites.sites import DropoutSite, dropout_sites, scheduled_sites

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher


def guided_dropout(
    model: nn.Module,
    fisher: Fisher,
    lower: float = 0.0,
    upper: float = 0.1,
    *,
    scale: Literal["rank", "log"] = "rank",
    weighting: Literal["tensor", "element"] = "tensor",
    batch: Mapping[str, Any] | None = None,
) -> DropoutSchedule:
    r"""Make the guided schedule: the more Fisher information a site's parameters hold, the less it drops.

    With `n` sites ordered by score, rank 0 the least informative, the rate of the site with rank `r` is
    `upper - (upper - lower) r / (n - 1)` (arXiv 2406.14005, eqs. 9-10): inclusive at both ends, ties in execution
    order; a lone site gets `upper`. With `scale="log"` the rate is linear in the logarithm of the score instead of its
    rank. A site that follows no parameter with a score (one of computed position encodings) has no place in the order:
    it is left out, with a warning, and keeps its rate.

    Parameters
    ----------
    model
        Any model with the backbone; its weights are not read.
    fisher
        Has `means`, a Series parameter name -> mean Fisher score; names may come from another model with the same
        backbone (the prefix of the base model is stripped on both sides).
    lower, upper
        Bounds of the rates.
    scale
        "rank" as in the paper, or "log".
    weighting
        The score of a site is the unweighted mean over its tensors of each tensor's mean ("tensor", as in the authors'
        code), or the mean over all its elements ("element").
    batch
        Keyword arguments of the forward in which the sites are found, by default a tiny dummy batch.

    Returns
    -------
    The schedule, with the score and the position of every site that it sets.

    Warns
    -----
    UserWarning
        If a site is left out, if there is one site only, or if the model has no dropout but that of its attention
        probabilities, at rate 0.

    Raises
    ------
    ValueError
        If a bound is no probability, or scores are missing for the model's parameters.

    >>> import pandas as pd, torch
    >>> from types import SimpleNamespace
    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    >>> means = pd.Series({"0.0.weight": 4.0, "0.0.bias": 2.0, "1.0.weight": 1.0, "1.0.bias": 1.0})
    >>> guided_dropout(net, SimpleNamespace(means=means), batch={"input": torch.ones(1, 2)}).rates
    {'0.1': 0.0, '1.1': 0.1}
    """
    lower, upper = bounds(lower, upper)
    one_of(scale, ("rank", "log"), "scale")
    one_of(weighting, ("tensor", "element"), "weighting")
    if not hasattr(fisher, "means"):
        raise TypeError(
            f"expected a Fisher (gv.fisher_information, or gv.Fisher.from_means for scores from elsewhere), got "
            f"{type(fisher).__name__}"
        )
    body = backbone_of(model)
    sites = tuple(dropout_sites(model, batch=batch))
    chosen = scheduled_sites(sites, model)
    scores = _site_scores(body, chosen, fisher.means, weighting)
    for remark in _remarks(model, chosen, scores, upper):
        warnings.warn(remark, stacklevel=2)
    positions = _rank_positions(scores) if scale == "rank" else _log_positions(scores)
    return DropoutSchedule(
        between(lower, upper, positions),
        kind="guided",
        sites=sites,
        scores=scores,
        lower=lower,
        upper=upper,
        positions=positions,
    )


def _remarks(model: nn.Module, sites: list[DropoutSite], scores: Mapping[str, float], upper: float) -> Iterator[str]:
    """What a reader must know of the sites of this model, one line each."""
    kind = type(unwrapped(model)).__name__
    left = [site.name for site in sites if site.name not in scores]
    if left:
        yield (
            f"left out: {few(left)}; no parameter with a Fisher score feeds these sites of {kind}, so nothing orders "
            "them, and they keep their rates"
        )
    if len(scores) == 1:
        yield f"{kind} has one site to order, {next(iter(scores))}, so the guided rate is the upper bound, {upper:g}"
    if all(site.kind == "attention probabilities" and site.rate == 0 for site in sites):
        yield (
            f"{kind} has no dropout but that of its attention probabilities, now at rate 0: the schedule sets these "
            f"{len(sites)} sites, and no embedding, attention output or feed-forward layer is dropped"
        )


def _rank_positions(scores: dict[str, float]) -> dict[str, float]:
    ascending = sorted(scores, key=scores.__getitem__)  # stable: ties stay in execution order
    last = max(len(scores) - 1, 1)
    rank = {name: i for i, name in enumerate(ascending)}
    return {name: rank[name] / last for name in scores}


def _log_positions(scores: dict[str, float]) -> dict[str, float]:
    positive = [score for score in scores.values() if score > 0]
    if not positive:
        raise ValueError("expected positive Fisher scores for scale='log', got zeros only; use scale='rank'")
    floor = min(positive)  # a site with score zero is placed with the least informative of the others
    logs = {name: math.log(max(score, floor)) for name, score in scores.items()}
    low, high = min(logs.values()), max(logs.values())
    return {name: (value - low) / (high - low) if high > low else 0.0 for name, value in logs.items()}


def _site_scores(body: Backbone, sites: list[DropoutSite], means: Any, weighting: str) -> dict[str, float]:
    """Average the tensors' means over each site that follows some, in execution order of the sites."""
    given = {plain_name(str(name)).removeprefix("base_model.model."): float(mean) for name, mean in means.items()}
    bad = [name for name, mean in given.items() if not mean >= 0 or math.isinf(mean)]
    if bad:
        raise ValueError(f"expected finite Fisher scores >= 0, got {given[bad[0]]} for {few(bad)}")
    wanted = list(dict.fromkeys(name for site in sites for name in site.parameters))
    prefix = _common_prefix(wanted, given)
    aliases = _aliases(body)
    parameters = {
        plain_name(relative): parameter
        for name, parameter in body.model.named_parameters(remove_duplicate=False)
        if (relative := body.relative(name)) is not None
    }
    found: dict[str, float] = {}
    missing = []
    for name in wanted:
        # a tied table may be listed under the head's name for it
        key = next((key for key in (prefix + name, *aliases.get(name, ())) if key in given), None)
        if key is not None:
            found[name] = given[key]
        elif name not in parameters or parameters[name].requires_grad:  # frozen tables (sinusoids) have no score
            missing.append(name)
    if missing:
        raise ValueError(
            f"expected a Fisher score for each of the {len(wanted)} parameters that the dropout sites follow, but "
            f"{len(missing)} are missing: {few(missing)} (given: {few(list(given))}); "
            "estimate the Fisher information on a model with this backbone"
        )
    scores = {}
    for site in sites:
        names = [name for name in site.parameters if name in found]
        if not names:
            continue
        weights = [parameters[name].numel() if weighting == "element" else 1 for name in names]
        total = math.fsum(weight * found[name] for weight, name in zip(weights, names, strict=True))
        scores[site.name] = total / sum(weights)
    if not scores:
        raise ValueError(
            f"expected a dropout site that follows a parameter with a Fisher score, got {len(sites)} without"
        )
    return scores


def _common_prefix(wanted: list[str], given: Mapping[str, float]) -> str:
    """The prefix ("bert.", "transformer.", "") under which most of the wanted names are given."""
    prefixes = Counter(
        key[: len(key) - len(name)] for name in wanted for key in given if key == name or key.endswith(f".{name}")
    )
    return prefixes.most_common(1)[0][0] if prefixes else ""


def _aliases(body: Backbone) -> dict[str, list[str]]:
    aliases = {}
    for names in body.parameter_aliases().values():
        for name in names:
            relative = body.relative(name)
            if relative is not None and len(names) > 1:
                aliases[plain_name(relative)] = [plain_name(other) for other in names]
    return aliases
