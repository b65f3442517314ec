"""Arms of a comparison: what each does to a classifier and to its training, and what tells two of them apart.

An arm prepares the classifier before its training; everything else is equal for all arms. Rates are set at the sites of
the backbone: the dropout before the classifier head stays as the architecture has it, in all arms alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Union

from torch import nn

from gdrop_viz.base.checks import instance, number
from gdrop_viz.base.digest import Undigestible, digest
from gdrop_viz.dropout import DropoutSchedule, gaussian_dropout, uniform_dropout

if TYPE_CHECKING:
    from transformers import TrainerCallback

Arm = Union[float, DropoutSchedule, None, Callable[[nn.Module], object], "WeightDecayArm"]


@dataclass(frozen=True)
class GaussianArm:
    """An arm with Gaussian dropout, N(1, rate / (1 - rate)), at every site of the backbone.

    Parameters
    ----------
    rate
        One number, or a `DropoutSchedule` with a rate for each site.

    >>> GaussianArm(0.1)
    GaussianArm(rate=0.1)
    """

    rate: float | DropoutSchedule

    def __post_init__(self) -> None:
        if not isinstance(self.rate, DropoutSchedule):
            number(self.rate, "rate", least=0, below=1)

    def __call__(self, model: nn.Module) -> None:
        """Put the noise in place of the dropout of `model`."""
        gaussian_dropout(model, self.rate)


@dataclass(frozen=True)
class WeightDecayArm:
    """An arm with its own weight decay (AdamW's, decoupled) and any dropout, by default none.

    Parameters
    ----------
    weight_decay
        At least 0.
    dropout
        A rate, a `DropoutSchedule`, None, or any other arm.

    >>> WeightDecayArm(0.1)
    WeightDecayArm(weight_decay=0.1, dropout=0.0)
    """

    weight_decay: float
    dropout: Any = 0.0

    def __post_init__(self) -> None:
        number(self.weight_decay, "weight_decay", least=0)


class WeightArm:
    """Base of arms that act on the weights, and may have any dropout: their field `dropout` is another arm."""

    dropout: Any

    def content(self) -> tuple[Any, ...]:
        """Return what determines the arm beside its dropout."""
        raise NotImplementedError

    def prepare(self, classifier: nn.Module) -> None:
        """Prepare `classifier`, whose dropout is set already."""
        raise NotImplementedError

    def callbacks(self, classifier: nn.Module) -> list[TrainerCallback]:
        """Return callbacks for the training of `classifier`, which is prepared."""
        return []

    def __call__(self, model: nn.Module) -> None:
        """Prepare `model`, its dropout included."""
        resolve_arm(self.dropout, model).prepare(model)
        self.prepare(model)


@dataclass(frozen=True)
class ResolvedArm:
    """What an arm is and does.

    Parameters
    ----------
    description
        What determines it, as JSON: two arms with equal descriptions train alike.
    mean_rate
        Mean dropout rate over the sites of the backbone; NaN where the arm does not say.
    prepare
        Prepares a classifier before its training.
    training_arguments
        Arguments of `transformers.TrainingArguments` that it trains with instead of the common ones.
    callbacks
        Makes the `transformers.TrainerCallback`s of the training of a prepared classifier; None for none.
    """

    description: dict[str, Any]
    mean_rate: float
    prepare: Callable[[nn.Module], object] = field(repr=False)
    training_arguments: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[nn.Module], Sequence[TrainerCallback]] | None = field(default=None, repr=False)

    def new_callbacks(self, classifier: nn.Module) -> list[TrainerCallback]:
        """Return the callbacks for the training of a prepared `classifier`; TypeError if they are something else."""
        if self.callbacks is None:
            return []
        from transformers import TrainerCallback

        return [
            instance(callback, TrainerCallback, "each of an arm's callbacks", "a subclass")
            for callback in self.callbacks(classifier)
        ]


def resolve_arm(arm: Arm | ResolvedArm, classifier: nn.Module, *, version: str | None = None) -> ResolvedArm:
    """Return what `arm` is and does for classifiers such as this one.

    Rates and schedules are described by the rates of all sites of `classifier`, so that a uniform schedule, the same
    number and a matched schedule that comes to the same are one arm; callables by the digest of what they hold and do,
    with the code of the helpers that they call. `version` stands for that where it cannot be read.

    Raises
    ------
    TypeError, ValueError
        If the arm is neither a rate in [0, 1), a schedule, None nor a callable, or is a callable that cannot be told
        apart from another.
    """
    if isinstance(arm, ResolvedArm):
        return arm
    if isinstance(arm, WeightDecayArm):
        dropout = resolve_arm(arm.dropout, classifier, version=version)
        own = {"weight_decay": float(arm.weight_decay)}
        return replace(
            dropout,
            description={**own, **dropout.description},
            training_arguments={**dropout.training_arguments, **own},
        )
    if isinstance(arm, WeightArm):
        dropout = resolve_arm(arm.dropout, classifier, version=version)
        own_content = {type(arm).__name__: digest(arm.content())}
        return replace(
            dropout, description={**own_content, **dropout.description}, prepare=arm, callbacks=arm.callbacks
        )
    if arm is None or (isinstance(arm, (int, float)) and not isinstance(arm, bool)):
        arm = uniform_dropout(classifier, number(arm or 0.0, "an arm's rate", least=0, below=1))
    if isinstance(arm, DropoutSchedule):
        rates = {site: float(rate) for site, rate in arm.rates.items()}
        return ResolvedArm({"rates": rates}, arm.mean_rate, arm.apply)
    if isinstance(arm, GaussianArm):
        return ResolvedArm({"gaussian": resolve_arm(arm.rate, classifier).description["rates"]}, math.nan, arm)
    if not callable(arm):
        raise TypeError(
            "expected an arm as a rate such as 0.1, a DropoutSchedule, None (no dropout), GaussianArm(rate), "
            f"WeightDecayArm(...) or a callable(model), got {arm!r}"
        )
    try:
        content = digest(arm)
    except Undigestible as error:
        if version is None:
            raise TypeError(
                f"expected an arm whose content can be read, to tell its runs from those of others, but {error}; make "
                "it a frozen dataclass with __call__(model), a function, or a functools.partial with plain values, or "
                "name a version= and change it with the arm"
            ) from None
        content = f"version {version}"
    return ResolvedArm({"callable": content, "name": _name_of(arm)}, math.nan, arm, callbacks=_callbacks_of(arm))


def _callbacks_of(arm: object) -> Callable[[nn.Module], Sequence[TrainerCallback]] | None:
    callbacks = getattr(arm, "callbacks", None)
    if callbacks is not None and not callable(callbacks):
        raise TypeError(
            f"expected an arm's callbacks as a method callbacks(classifier) that returns TrainerCallbacks, got "
            f"{callbacks!r}"
        )
    return callbacks


def _name_of(arm: Callable[[nn.Module], object]) -> str:
    named = arm if hasattr(arm, "__qualname__") else type(arm)
    return str(named.__qualname__)
