"""What may be an arm of a comparison, how is it put on a classifier, and when are two arms the same?

An arm prepares the classifier before its training; everything else is equal for all arms. Rates are set at the sites of
the backbone: the dropout before the classifier head stays as the architecture has it, in all arms alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Union

from torch import nn

if TYPE_CHECKING:
    from gdrop_viz.dropout import DropoutSchedule

Arm = Union[float, "DropoutSchedule", None, Callable[[nn.Module], object]]


@dataclass(frozen=True)
class GaussianArm:
    """An arm with Gaussian dropout, N(1, rate / (1 - rate)), at every site of the backbone.

    `rate` is one number, or a `DropoutSchedule` with a rate for each site.

    >>> GaussianArm(0.1)
    GaussianArm(rate=0.1)
    """

    rate: float | DropoutSchedule

    def __post_init__(self) -> None:
        if not _is_schedule(self.rate):
            _check_rate(self.rate, "rate")

    def __call__(self, model: nn.Module) -> None:
        from gdrop_viz.dropout import gaussian_dropout

        gaussian_dropout(model, self.rate)


@dataclass(frozen=True)
class WeightDecayArm:
    """An arm with its own weight decay (AdamW's, decoupled) and any dropout, by default none.

    >>> WeightDecayArm(0.1)
    WeightDecayArm(weight_decay=0.1, dropout=0.0)
    """

    weight_decay: float
    dropout: Any = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.weight_decay, (int, float)) and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"weight_decay must be a number of at least 0, got {self.weight_decay!r}")


def apply_arm(arm: Arm | WeightDecayArm, classifier: nn.Module) -> None:
    """Prepare `classifier` as the arm says: a rate for all sites, a schedule, None (rate 0) or a callable.

    Raises
    ------
    TypeError, ValueError
        If the arm is none of these, its rate is not in [0, 1), or a schedule belongs to another model.
    """
    if isinstance(arm, WeightDecayArm):
        apply_arm(arm.dropout, classifier)
    elif arm is None or _is_rate(arm):
        from gdrop_viz.dropout import uniform_dropout

        _check_rate(arm or 0.0, "an arm's rate")
        uniform_dropout(classifier, float(arm or 0.0)).apply(classifier)
    elif _is_schedule(arm):
        arm.apply(classifier)
    elif callable(arm):
        arm(classifier)
    else:
        raise TypeError(
            "an arm must be a rate such as 0.1, a DropoutSchedule, None (no dropout), GaussianArm(rate), "
            f"WeightDecayArm(...) or a callable(model), got {arm!r}"
        )


def weight_decay_of(arm: Arm | WeightDecayArm, default: float) -> float:
    """Return the weight decay that the arm trains with."""
    return float(arm.weight_decay) if isinstance(arm, WeightDecayArm) else default


def describe_arm(arm: Arm | WeightDecayArm, classifier: nn.Module) -> dict[str, Any]:
    """Return what determines the arm, as JSON: two arms with equal descriptions train alike.

    Rates and schedules become the rates of all sites of `classifier`, so that a uniform schedule, the same number and
    a matched schedule that comes to the same are one arm. A dataclass instance is described by its fields, a
    function by its code, defaults and closure.

    Raises
    ------
    TypeError
        If a callable cannot be told apart from another (neither dataclass, function nor partial).
    """
    if isinstance(arm, WeightDecayArm):
        return {"weight_decay": float(arm.weight_decay), **describe_arm(arm.dropout, classifier)}
    if arm is None or _is_rate(arm):
        from gdrop_viz.dropout import uniform_dropout

        arm = uniform_dropout(classifier, float(arm or 0.0))
    if _is_schedule(arm):
        return {"rates": {site: float(rate) for site, rate in arm.rates.items()}}
    return {"callable": _identity(arm)}


def mean_rate(description: Mapping[str, Any]) -> float:
    """Return the mean dropout rate over the sites of a described arm; NaN for callables.

    >>> mean_rate({"rates": {"embeddings": 0.0, "encoder.layer.0.output": 0.1}})
    0.05
    """
    rates = description.get("rates")
    return sum(rates.values()) / len(rates) if rates else math.nan


def _is_rate(arm: object) -> bool:
    return isinstance(arm, (int, float)) and not isinstance(arm, bool)


def _is_schedule(arm: object) -> bool:
    from gdrop_viz.dropout import DropoutSchedule

    return isinstance(arm, DropoutSchedule)


def _check_rate(rate: object, what: str) -> None:
    if not (_is_rate(rate) and 0 <= rate < 1):
        raise ValueError(f"{what} must be a dropout probability in [0, 1), got {rate!r}")


def _identity(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return {"partial": _identity(value.func), "args": _identity(value.args), "keywords": _identity(value.keywords)}
    if isinstance(value, FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or ()]
        return {
            "function": f"{value.__module__}.{value.__qualname__}",
            "code": _code(value.__code__),
            "values": _identity([value.__defaults__, value.__kwdefaults__, closure]),
        }
    if _is_schedule(value):
        return {"rates": dict(value.rates)}
    if is_dataclass(value) and not isinstance(value, type):
        kept = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", "fields": _identity(kept)}
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_identity(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"expected an arm that can be told apart from others in the folder of runs, got one that holds {value!r}; "
        "make the arm a frozen dataclass with __call__(model), a function, or a functools.partial with plain values"
    )


def _code(code: CodeType) -> list[Any]:
    # nested functions are constants of their own; names tell which attributes and globals are used
    constants = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
