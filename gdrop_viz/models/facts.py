"""Facts found out about a model by running it, kept with the model object until its modules change."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn

_Modules = list[tuple["ref[nn.Module]", Any]]
_known: WeakKeyDictionary[nn.Module, tuple[_Modules, dict[str, Any]]] = WeakKeyDictionary()


def facts_of(model: nn.Module) -> dict[str, Any]:
    """Return what has been noted about this model object; nothing, if a module was added, removed or replaced.

    A `forward` that was put on a module counts as a change too.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> facts_of(model)["causal"] = False
    >>> facts_of(model)
    {'causal': False}
    >>> _ = model.append(nn.ReLU())
    >>> facts_of(model)
    {}
    """
    modules = list(model.modules())
    then, facts = _known.get(model, ((), {}))
    # weak references and not ids: a new module may have the id of one that is gone
    same = len(then) == len(modules) and all(
        before() is now and forward is vars(now).get("forward")
        for (before, forward), now in zip(then, modules, strict=True)
    )
    if not same:
        facts = {}
        _known[model] = [(ref(module), vars(module).get("forward")) for module in modules], facts
    return facts
