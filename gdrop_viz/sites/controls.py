"""Rate controls: the attribute of a module that sets the rate of an observed dropout call.

Found by perturbation: every attribute that could be the source of a rate is set to a value of its own, the forward
runs again, and the rate that a call then shows names its source. This works whether the source is an `nn.Dropout`, a
float read by fused attention, or a field of the configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from gdrop_viz.sites.calls import Observation

# torch's own modules, whose rate is always `p`; a site of theirs bears the module's name
_DROPOUT_MODULES = nn.modules.dropout._DropoutNd


@dataclass(frozen=True)
class RateControl:
    """The number `module.attribute` (or `module.config.attribute`) that sets a rate; `path` is the module's."""

    module: nn.Module
    path: str
    attribute: str
    in_config: bool = False

    @property
    def name(self) -> str:
        """The site's name: the dotted path of the dropout module, or of the attribute."""
        if isinstance(self.module, _DROPOUT_MODULES):
            return self.path
        attribute = f"config.{self.attribute}" if self.in_config else self.attribute
        return f"{self.path}.{attribute}" if self.path else attribute

    def set(self, rate: float) -> None:
        """Set the rate of this module alone.

        A configuration is shared by all layers, so the module gets a copy with its own value.
        """
        if self.in_config:
            self.module.config = copy.copy(self.module.config)
            setattr(self.module.config, self.attribute, rate)
        else:
            setattr(self.module, self.attribute, rate)

    def state(self) -> Any:
        """What `restore` needs."""
        return getattr(self.module, "config" if self.in_config else self.attribute)

    def restore(self, state: Any) -> None:
        """Put back what `state` returned (the very same configuration object, the very same number)."""
        setattr(self.module, "config" if self.in_config else self.attribute, state)


@contextmanager
def preserved_rates(controls: Iterable[RateControl]) -> Iterator[None]:
    """Give all controls their values back afterwards, whatever happens."""
    before = [(control, control.state()) for control in controls]
    try:
        yield
    finally:
        for control, state in reversed(before):
            control.restore(state)


def candidates(model: nn.Module, seen: Observation) -> list[RateControl]:
    """Every number that could have been the rate of an observed call.

    These are the `p` of each `nn.Dropout`, and of each module that was running during a call the floats (and those
    of its configuration) that equal the call's rate.
    """
    modules = dict(model.named_modules())
    found = {
        (path, "p", False): RateControl(module, path, "p")
        for path, module in modules.items()
        if isinstance(module, _DROPOUT_MODULES)
    }
    for path, rate in dict.fromkeys((running.path, call.rate) for call in seen.calls for running in call.stack):
        module = modules[path]
        if isinstance(module, _DROPOUT_MODULES):
            continue
        places = [(vars(module), False)]
        if hasattr(module, "config"):
            places.append((vars(module.config), True))
        for values, in_config in places:
            for attribute, value in values.items():
                if _could_be_rate(attribute, value, rate):
                    found.setdefault((path, attribute, in_config), RateControl(module, path, attribute, in_config))
    return list(found.values())


def _could_be_rate(attribute: str, value: Any, rate: float) -> bool:
    if isinstance(value, bool) or attribute.startswith("_"):
        return False
    # a rate of zero may be written as the integer 0, as may many other things
    return (
        isinstance(value, float) or (value == 0 and isinstance(value, int) and "drop" in attribute)
    ) and value == rate


@contextmanager
def distinct_rates(controls: list[RateControl]) -> Iterator[dict[float, RateControl]]:
    """Set each control to a rate of its own; yield which rate means which control."""
    with preserved_rates(controls):
        control_of = {}
        for i, control in enumerate(controls):
            # small enough to leave the activations sane, and no number that anyone would write into a model
            rate = 0.0123456789 + 0.1 * (i + 1) / (len(controls) + 1)
            control.set(rate)
            control_of[rate] = control
        yield control_of
