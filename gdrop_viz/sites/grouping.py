"""Grouping of parameters: those that each dropout site follows.

A site's parameters are those of the module that owns the dropout (arXiv 2406.14005). Where an owner has several sites,
a parameter belongs to the first of them that is applied after it; what follows the last site (a LayerNorm, say)
belongs to that one, unless the owner holds other sites' owners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gdrop_viz.models.backbone import Backbone
from gdrop_viz.sites.calls import DropoutCall, Observation, ParameterUse, Running
from gdrop_viz.sites.controls import RateControl

# of each invocation of an owner: the times of its sites' calls, with the sites' names
_CallTimes = dict[Running, list[tuple[int, str]]]


@dataclass(frozen=True)
class SiteCalls:
    """The calls of one site in one forward, and what sets their rate (None if nothing does)."""

    name: str
    control: RateControl | None
    calls: list[DropoutCall] = field(default_factory=list)

    @cached_property
    def owner(self) -> str:
        """The innermost module that was running and holds the control (not a dropout module itself)."""
        if self.control is None:
            return self.calls[0].path
        holders = [
            running.path
            for running in self.calls[0].stack
            if running.path != self.name and _contains(running.path, self.name)
        ]
        return holders[-1] if holders else self.name.rpartition(".")[0]


def followed_parameters(body: Backbone, seen: Observation, sites: Sequence[SiteCalls]) -> dict[str, list[str]]:
    """Share the used parameters out to the sites: {site: parameter names in execution order}."""
    containers = _containers({site.owner for site in sites})
    call_times = _times_in_owners(seen, sites)
    followed: dict[str, dict[str, None]] = {site.name: {} for site in sites}
    for use in seen.uses:
        name = _site_of(use, _possible_owners(body, use), call_times, containers)
        if name is not None:
            followed[name][use.name] = None
    for site in sites:
        if not followed[site.name]:  # its owner computes nothing with parameters
            followed[site.name] = dict.fromkeys(_feeding(seen, site.calls[0]))
    return {name: list(parameters) for name, parameters in followed.items()}


def _contains(outer: str, inner: str) -> bool:
    return not outer or inner.startswith(f"{outer}.")


def _containers(owners: set[str]) -> set[str]:
    """The owners that hold another owner (GPT-2's body): what comes late in them is not their site's."""
    return {owner for owner in owners if any(other != owner and _contains(owner, other) for other in owners)}


def _times_in_owners(seen: Observation, sites: Sequence[SiteCalls]) -> _CallTimes:
    """Collect the calls by the invocation of their owner: a layer used several times is looked at pass by pass."""
    used_in: dict[Running, int] = {}
    for use in seen.uses:
        for running in use.stack:
            used_in[running] = used_in.get(running, 0) | 1 << use.time
    times: _CallTimes = {}
    for site in sites:
        for call in site.calls:
            for running in call.stack:
                # what was computed outside the owner (DeBERTa's relative positions) follows none of its parameters
                inside = call.inputs.all & used_in.get(running, 0) or not call.inputs.all
                if running.path == site.owner and inside:
                    times.setdefault(running, []).append((call.time, site.name))
    return times


def _possible_owners(body: Backbone, use: ParameterUse) -> list[Running]:
    """The running modules on the use's side: a classifier's dropout is no place for the body's parameters."""
    in_body = body.relative(use.stack[-1].path) is not None
    return [running for running in use.stack if (body.relative(running.path) is not None) == in_body]


def _site_of(
    use: ParameterUse, possible: Sequence[Running], call_times: Mapping[Running, list[tuple[int, str]]],
    containers: set[str],
) -> str | None:  # fmt: skip
    """The first site after the use in a module that owns it, else the last one before it."""
    after: list[tuple[int, str]] = []
    before: list[tuple[int, str]] = []
    for running in possible:
        for time, name in call_times.get(running, ()):
            if time > use.time:
                after.append((time, name))
            elif running.path not in containers:
                before.append((time, name))
    if after:
        return min(after)[1]
    return max(before)[1] if before else None


def _feeding(seen: Observation, call: DropoutCall) -> list[str]:
    """The parameters from which a call's input was computed since the last dropout."""
    return [use.name for use in seen.uses if call.inputs.recent >> use.time & 1]
