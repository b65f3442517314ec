"""Dropout sites: the places where a model really drops, what sets their rates, and the parameters that they follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

from gdrop_viz.base.checks import few
from gdrop_viz.base.locks import model_lock
from gdrop_viz.models.anatomy import place_of
from gdrop_viz.models.backbone import Backbone, backbone_of, plain_name
from gdrop_viz.sites.calls import OWN_MASK, DropoutCall, Observation
from gdrop_viz.sites.controls import RateControl, candidates, distinct_rates
from gdrop_viz.sites.grouping import SiteCalls, followed_parameters
from gdrop_viz.sites.observation import observed

Kind = Literal["embedding", "attention probabilities", "attention output", "feed-forward", "head", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class DropoutSite:
    """One place where a training-mode forward drops activations, set by one number.

    A number that a model reads several times (BART's `dropout` of a layer serves its attention and its feed-forward
    output) is one site with several `calls`: its rates cannot differ.

    Attributes
    ----------
    name
        Dotted path, below the base model, of the dropout module or of the attribute that holds the rate; for a site in
        the head, the path in the whole model.
    owner
        Dotted path of the module that applies it ("" is the base model itself).
    kind
        What is dropped.
    rate
        The probability that a forward really used when the site was found; NaN where a module draws its mask itself.
    parameters
        Names, below the base model, of the parameters that the site follows: those of its owner, shared out by
        execution order where an owner has several sites.
    layer
        Index of the transformer layer, None outside the layers.
    stack
        "encoder" or "decoder" in encoder-decoders, else "".
    controllable
        False if no attribute is known to set the rate: it is written into the model's code, or a module draws its
        mask itself.
    adapter
        True if an adapter method such as LoRA added it; schedules leave it alone.
    calls
        How many calls in one forward use this number.
    """

    name: str
    owner: str
    kind: Kind
    rate: float
    parameters: tuple[str, ...]
    layer: int | None = None
    stack: str = ""
    controllable: bool = True
    adapter: bool = False
    calls: int = 1

    @property
    def scheduled(self) -> bool:
        """Whether schedules set this site: its rate can be set, and it belongs to the pretrained body."""
        return self.controllable and self.kind != "head" and not self.adapter


@dataclass(frozen=True)
class LocatedSite:
    """A site in one concrete model: what sets its rate (None if nothing does) and the keys of its calls."""

    site: DropoutSite
    control: RateControl | None
    keys: tuple[tuple[str, str, int], ...]


def dropout_sites(model: nn.Module, *, batch: Mapping[str, Any] | None = None) -> list[DropoutSite]:
    """List every dropout that a training-mode forward of `model` performs, in execution order.

    The forward is observed, twice, on a tiny dummy batch (or on `batch`, keyword arguments of the forward): once as
    the model is, once with every candidate attribute set to a rate of its own, which shows what controls each call.
    Sites with rate zero are found too, and so are those in experts that no token reached: such a module runs on what a
    sibling of the same make was given. The model and all random generators are left as they were.

    Grouping follows the paper (arXiv 2406.14005): a site's parameters are those of the module that owns the dropout.
    Where an owner has several sites, a parameter belongs to the first of them that is applied after it; what follows
    the last site (a LayerNorm, say) belongs to that one, unless the owner holds other sites' owners.

    Raises
    ------
    TypeError
        If `model` is no `torch.nn.Module`.
    ValueError
        If the model does not run on the batch.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
    >>> import torch
    >>> [(site.name, site.rate, site.parameters) for site in dropout_sites(net, batch={"input": torch.ones(1, 4)})]
    [('1', 0.1, ('0.weight', '0.bias'))]
    """
    return [located.site for located in locate(model, batch=batch)]


def locate(model: nn.Module, *, batch: Mapping[str, Any] | None = None) -> list[LocatedSite]:
    """Find the sites together with what sets and what shows their rates."""
    body = backbone_of(model)
    with model_lock(body.model):
        plain = observed(body.model, batch)
        with distinct_rates(candidates(body.model, plain)) as control_of:
            seen = observed(body.model, batch)
    before = plain.by_key()
    sites = _sites_of(seen, control_of)
    inside = _names_inside(body)
    followed = followed_parameters(body, seen, sites)
    found = []
    for site in sites:
        keys = tuple(dict.fromkeys(call.key for call in site.calls))
        rate = before.get(keys[0], site.calls[0]).rate
        described = _described(body, site, rate, [inside.get(name, name) for name in followed[site.name]])
        found.append(LocatedSite(described, site.control, keys))
    return _with_stacks(found)


def _sites_of(seen: Observation, control_of: Mapping[float, RateControl]) -> list[SiteCalls]:
    """Group the calls by what sets their rate; those that nothing sets are sites of their own."""
    found: dict[str, SiteCalls] = {}
    for call in seen.calls:
        control = control_of.get(call.rate)
        if control is not None:
            name = control.name
        elif call.function == OWN_MASK:
            name = call.path
        else:
            name = f"{call.path}.{call.function}".removeprefix(".") + (f".{call.index}" if call.index else "")
        found.setdefault(name, SiteCalls(name, control)).calls.append(call)
    return list(found.values())


def scheduled_sites(sites: Iterable[DropoutSite], model: nn.Module) -> list[DropoutSite]:
    """Return those that a schedule sets; raise ValueError if `model` has none."""
    sites = list(sites)
    chosen = [site for site in sites if site.scheduled]
    if not chosen:
        named = f"only {few([site.name for site in sites])}" if sites else "none"
        raise ValueError(
            f"expected a model whose body has dropout sites, got {type(model).__name__} with {named}; its code calls "
            "no dropout that could be set, so add nn.Dropout modules to it or take another model"
        )
    return chosen


def _with_stacks(found: list[LocatedSite]) -> list[LocatedSite]:
    """Name the stack where there are two, also of what lies outside the layers; OPT's lone "decoder" is no stack."""
    stacks = {place.site.stack for place in found} - {""}

    def stack(site: DropoutSite) -> str:
        if len(stacks) < 2 or site.kind == "head":
            return ""
        first = site.name.partition(".")[0]
        return site.stack or (first if first in stacks else "")

    return [replace(place, site=replace(place.site, stack=stack(place.site))) for place in found]


def _names_inside(body: Backbone) -> dict[str, str]:
    """For tied parameters whose first name lies in the head: the name that they have inside the base model."""
    inside = {}
    for first, names in body.parameter_aliases().items():
        inside[first] = next((name for name in names if body.relative(name) is not None), first)
    return inside


def _described(body: Backbone, site: SiteCalls, rate: float, parameters: list[str]) -> DropoutSite:
    """Translate to names below the base model and say what kind of site it is."""
    name, owner = body.relative(site.name), body.relative(site.owner)
    adapter = body.is_adapter(site.name)
    common: Any = {"controllable": site.control is not None, "adapter": adapter, "calls": len(site.calls)}
    if name is None or owner is None:
        return DropoutSite(site.name, site.owner, "head", rate, tuple(map(plain_name, parameters)), **common)
    below = [body.relative(parameter) for parameter in parameters if not body.is_adapter(parameter)]
    names = tuple(plain_name(parameter) for parameter in below if parameter is not None)
    place = place_of(name)
    kind = "other" if adapter else _kind(name, names, site.calls, place.layer)
    return DropoutSite(name, owner, kind, rate, names, place.layer, place.stack, **common)


def _kind(name: str, parameters: tuple[str, ...], calls: list[DropoutCall], layer: int | None) -> Kind:
    if all(call.on_probabilities for call in calls):
        return "attention probabilities"
    components = {place_of(parameter).component for parameter in parameters} - {"norm"}
    if layer is None:
        components.add(place_of(name).component)
        if "embedding" in components:
            return "embedding"
        # of a model that is its own base, the name alone can tell the head ("decoder" is a stack or a head's layer)
        return "head" if components == {"head"} and name.partition(".")[0] not in ("encoder", "decoder") else "other"
    kinds: dict[str, Kind] = {"attention": "attention output", "feed-forward": "feed-forward", "embedding": "embedding"}
    return kinds.get(components.pop(), "other") if len(components) == 1 else "other"
