"""Alternatives: modules of one make, such as experts, of which one forward runs only some.

A router decides which experts a token reaches, so the few tokens of an observation miss some of them. What these would
do is seen by running them on what a sibling was given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from torch import nn

from gdrop_viz.sites.calls import Observation, Running


class _Run(NamedTuple):
    """One run of a module: what it was given, and the uses of parameters (a bit set) that this was computed from."""

    running: Running
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: int


class Alternatives:
    """The siblings of one make in a model, and which of them have run."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._siblings = _siblings(self._modules)
        self._runs: dict[tuple[Running, tuple[str, ...]], list[_Run]] = defaultdict(list)
        self._reached: set[str] = set()

    def entered(self, running: Running, caller: Running, args: tuple, kwargs: Mapping[str, Any], inputs: int) -> None:
        """Note that a module begins to run inside `caller`."""
        if running.path in self._siblings:
            self._reached.add(running.path)
            self._runs[caller, self._siblings[running.path]].append(_Run(running, args, kwargs, inputs))

    def run_missed(self, caller: Running, seen: Observation) -> None:
        """Before `caller` ends, run the siblings of those that dropped in it and that no forward has reached."""
        for place in [place for place in self._runs if place[0] == caller]:
            runs = self._runs.pop(place)
            dropping = [run for run in runs if any(run.running in call.stack for call in seen.calls)]
            missed = [path for path in place[1] if path not in self._reached]
            if dropping and missed and not _one_after_another(runs, seen):
                for path in missed:
                    self._modules[path](*dropping[0].args, **dropping[0].kwargs)


def _siblings(modules: Mapping[str, nn.Module]) -> dict[str, tuple[str, ...]]:
    """For each module with parameters: itself and the children of its parent that are made alike, if there are any."""
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for path, module in modules.items():
        if path and next(module.parameters(), None) is not None:
            parts = tuple((name, type(part)) for name, part in module.named_modules())
            shapes = tuple((name, parameter.shape) for name, parameter in module.named_parameters())
            alike[path.rpartition(".")[0], parts, shapes].append(path)
    return {path: tuple(paths) for paths in alike.values() if len(paths) > 1 for path in paths}


def _one_after_another(runs: list[_Run], seen: Observation) -> bool:
    """Whether one sibling works on what another has computed: these are layers, and no alternatives."""
    used = [sum(1 << use.time for use in seen.uses if run.running in use.stack) for run in runs]
    return any(run.inputs & used[i] for i in range(len(runs)) for j, run in enumerate(runs) if i != j)
