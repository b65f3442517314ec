"""Where does a model really apply dropout, and which parameters does each place follow?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from gdrop_viz.models.anatomy import place_of
from gdrop_viz.models.backbone import Backbone, backbone_of, plain_name
from gdrop_viz.sites.calls import DropoutCall, Observation, ParameterUse, Running
from gdrop_viz.sites.controls import Knob, candidates, knob_by_estimate, marked
from gdrop_viz.sites.observation import observed
from gdrop_viz.sites.rates import few

Kind = Literal["embedding", "attention probabilities", "attention output", "feed-forward", "head", "other"]
KINDS: tuple[Kind, ...] = (
    "embedding",
    "attention probabilities",
    "attention output",
    "feed-forward",
    "head",
    "other",
)


@dataclass(frozen=True)
class DropoutSite:
    """One place where a training-mode forward drops activations, set by one number.

    A number that a model reads several times (BART's `dropout` of a layer serves its attention and its feed-forward
    output) is one site with several `calls`: its rates cannot differ.

    Attributes:
        name: dotted path, below the base model, of the dropout module or of the attribute that holds the rate; for
            a site in the head, the path in the whole model.
        owner: dotted path of the module that applies it ("" is the base model itself).
        kind: what is dropped.
        rate: the probability that a forward really used when the site was found.
        parameters: names, below the base model, of the parameters that the site follows: those of its owner, shared
            out by execution order where an owner has several sites.
        layer: index of the transformer layer, None outside the layers.
        stack: "encoder" or "decoder" in encoder-decoders, else "".
        controllable: False if no attribute sets the rate (it is written into the model's code).
        adapter: True if an adapter method such as LoRA brought it; schedules leave it alone.
        calls: how many calls in one forward use this number.
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
        """Whether schedules set this site: it has a knob and belongs to the pretrained body."""
        return self.controllable and self.kind != "head" and not self.adapter


@dataclass(frozen=True)
class LocatedSite:
    """A site in one concrete model: its knob (None if it has none) and the keys of its calls."""

    site: DropoutSite
    knob: Knob | None
    keys: tuple[tuple[str, str, int], ...]


def dropout_sites(model: nn.Module, *, batch: Mapping[str, Any] | None = None) -> list[DropoutSite]:
    """List every dropout that a training-mode forward of `model` performs, in execution order.

    The forward is observed, twice, on a tiny dummy batch (or on `batch`, keyword arguments of the forward): once as
    the model is, once with every candidate attribute set to a rate of its own, which shows what controls each call.
    Sites with rate zero are found too. The model and all random generators are left as they were.

    Grouping follows the paper (arXiv 2406.14005): a site's parameters are those of the module that owns the dropout.
    Where an owner has several sites, a parameter belongs to the first of them that is applied after it; what follows
    the last site (a LayerNorm, say) belongs to that one, unless the owner holds other sites' owners.

    Raises:
        TypeError: `model` is no `torch.nn.Module`.
        ValueError: the model does not run on the batch.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
    >>> import torch
    >>> [(site.name, site.rate, site.parameters) for site in dropout_sites(net, batch={"input": torch.ones(1, 4)})]
    [('1', 0.1, ('0.weight', '0.bias'))]
    """
    return [located.site for located in locate(model, batch=batch)]


def locate(model: nn.Module, *, batch: Mapping[str, Any] | None = None) -> list[LocatedSite]:
    """Find the sites together with what sets and what shows their rates."""
    body = backbone_of(model)
    plain = observed(body.model, batch)
    before = plain.by_key()
    by_estimate: dict[str, Knob | None] = {}
    for call in plain.calls:
        if call.function == "own noise" and call.path not in by_estimate:
            by_estimate[call.path] = knob_by_estimate(body.model.get_submodule(call.path), call.path)
    with marked(candidates(body.model, plain)) as marks:
        seen = observed(body.model, batch)
        calls_of: dict[str, list[DropoutCall]] = {}
        knobs: dict[str, Knob | None] = {}
        for call in seen.calls:
            knob = by_estimate[call.path] if call.function == "own noise" else marks.get(call.rate)
            name = knob.name if knob else f"{call.path}.{call.function}".removeprefix(".")
            if knob is None and call.index:
                name += f".{call.index}"
            calls_of.setdefault(name, []).append(call)
            knobs[name] = knob
    owners = {name: _owner(calls, knobs[name]) for name, calls in calls_of.items()}
    inside = _names_inside(body)
    followed = _followed_parameters(body, seen, calls_of, owners)
    found = []
    for name, calls in calls_of.items():
        keys = tuple(dict.fromkeys(call.key for call in calls))
        knob = knobs[name]
        rate = before[keys[0]].rate if keys[0] in before else calls[0].rate
        site = _described(body, name, owners[name], rate, calls, [inside.get(p, p) for p in followed[name]])
        found.append(LocatedSite(replace(site, controllable=knob is not None), knob, keys))
    return _with_stacks(found)


def scheduled_sites(sites: Iterable[DropoutSite], model: nn.Module) -> list[DropoutSite]:
    """Return those that a schedule sets; raise ValueError if `model` has none."""
    sites = list(sites)
    chosen = [site for site in sites if site.scheduled]
    if not chosen:
        named = f"only {few([site.name for site in sites])}" if sites else "none"
        raise ValueError(
            f"expected a model whose body has dropout sites, got {type(model).__name__} with {named}; "
            "load the model with dropout rates in its configuration"
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


def _owner(calls: list[DropoutCall], knob: Knob | None) -> str:
    """The innermost module that was running and holds the knob (not a dropout module itself)."""
    if knob is None:
        return calls[0].path
    site = knob.name
    running = [r.path for r in calls[0].stack if r.path != site and (not r.path or site.startswith(f"{r.path}."))]
    return running[-1] if running else site.rpartition(".")[0]


def _followed_parameters(
    body: Backbone, seen: Observation, calls_of: dict[str, list[DropoutCall]], owners: dict[str, str]
) -> dict[str, list[str]]:
    """Share the used parameters out to the sites: {site: parameter names in execution order}."""
    # an owner that holds another owner is a container (GPT-2's body): what comes late in it is not the site's
    containers = {
        owner
        for owner in owners.values()
        if any(other != owner and (not owner or other.startswith(f"{owner}.")) for other in owners.values())
    }
    used_in: dict[Running, int] = {}
    for use in seen.uses:
        for running in use.stack:
            used_in[running] = used_in.get(running, 0) | 1 << use.time
    # by the invocation of the owner: a layer used several times is looked at one pass at a time
    by_invocation: dict[Running, list[tuple[DropoutCall, str]]] = {}
    for name, calls in calls_of.items():
        for call in calls:
            for running in call.stack:
                # what was computed outside the owner (DeBERTa's relative positions) follows none of its parameters
                if running.path == owners[name] and (call.inputs.all & used_in.get(running, 0) or not call.inputs.all):
                    by_invocation.setdefault(running, []).append((call, name))
    followed: dict[str, dict[str, None]] = {name: {} for name in calls_of}
    for use in seen.uses:
        # a classifier's dropout, owned by the whole model, is no place for the body's parameters
        in_body = body.relative(use.stack[-1].path) is not None
        running = [r for r in use.stack if (body.relative(r.path) is not None) == in_body]
        name = _site_of_use(use, running, by_invocation, containers)
        if name is not None:
            followed[name][use.name] = None
    for name, calls in calls_of.items():
        if not followed[name]:  # its owner computes nothing with parameters: take what feeds it since the last dropout
            feeding = [use.name for use in seen.uses if calls[0].inputs.recent >> use.time & 1]
            followed[name] = dict.fromkeys(feeding)
    return {name: list(parameters) for name, parameters in followed.items()}


def _site_of_use(
    use: ParameterUse,
    owners_running: list[Running],
    by_invocation: Mapping[Running, list[tuple[DropoutCall, str]]],
    containers: set[str],
) -> str | None:
    after: list[tuple[int, str]] = []
    before: list[tuple[int, str]] = []
    for running in owners_running:
        for call, name in by_invocation.get(running, ()):
            if call.time > use.time:
                after.append((call.time, name))
            elif running.path not in containers:
                before.append((call.time, name))
    if after:
        return min(after)[1]
    return max(before)[1] if before else None


def _described(
    body: Backbone, name: str, owner: str, rate: float, calls: list[DropoutCall], parameters: list[str]
) -> DropoutSite:
    """Translate to names below the base model and say what kind of site it is."""
    relative_name, relative_owner = body.relative(name), body.relative(owner)
    adapter = body.is_adapter(name)
    if relative_name is None or relative_owner is None:
        names = tuple(map(plain_name, parameters))
        return DropoutSite(name, owner, "head", rate, names, adapter=adapter, calls=len(calls))
    below = [body.relative(parameter) for parameter in parameters if not body.is_adapter(parameter)]
    names = tuple(plain_name(parameter) for parameter in below if parameter is not None)
    place = place_of(relative_name)
    kind = "other" if adapter else _kind(relative_name, names, calls, place.layer)
    return DropoutSite(
        relative_name, relative_owner, kind, rate, names, place.layer, place.stack, adapter=adapter, calls=len(calls)
    )


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
