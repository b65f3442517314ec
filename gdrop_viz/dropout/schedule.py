"""Dropout schedules: a rate for every site, set in a model and measured there."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from typing import TYPE_CHECKING, Any

from torch import nn

from gdrop_viz.base.checks import few
from gdrop_viz.base.locks import model_lock
from gdrop_viz.base.saved import DamagedFile, load_json, save_json
from gdrop_viz.models.backbone import backbone_of
from gdrop_viz.sites.observation import observed
from gdrop_viz.sites.rates import between, bounds, probability
from gdrop_viz.sites.sites import DropoutSite, LocatedSite, dropout_sites, locate, scheduled_sites

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "gdrop_viz dropout schedule 1"
# rates travel as Python floats, unchanged; this only allows for a model that keeps them in single precision
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class DropoutSchedule:
    """A dropout rate for every site of a pretrained backbone.

    Site names are relative to the base model, so a schedule made on the language model applies to any model with the
    same backbone: a classifier, a question answerer, the same inside `peft`.

    Attributes
    ----------
    rates
        Site name -> probability, in execution order.
    kind
        "guided", "uniform", "reversed", ... (free text).
    sites
        All sites of the model it was made for, also those that it leaves alone: in the head, without a control, or
        without a parameter to follow.
    scores
        Fisher score of each site, None without one.
    lower, upper
        The bounds between which the rates run.
    positions
        Where each site lies from the least (0) to the most informative (1) in the sense of the schedule's scale;
        `rate = upper (1 - position) + lower position`. None if the schedule has no order.

    >>> schedule = DropoutSchedule({"a": 0.1, "b": 0.05, "c": 0.0}, kind="guided", lower=0.0, upper=0.1,
    ...                            positions={"a": 0.0, "b": 0.5, "c": 1.0})
    >>> schedule.reversed().rates
    {'a': 0.0, 'b': 0.05, 'c': 0.1}
    >>> schedule.rescaled(upper=0.2).rates
    {'a': 0.2, 'b': 0.1, 'c': 0.0}
    """

    rates: dict[str, float]
    kind: str = "custom"
    sites: tuple[DropoutSite, ...] = ()
    scores: dict[str, float] | None = None
    lower: float | None = None
    upper: float | None = None
    positions: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.rates:
            raise ValueError("expected a rate for at least one site, got none")
        for name, rate in self.rates.items():
            probability(rate, f"the rate of {name}")
        object.__setattr__(self, "lower", min(self.rates.values()) if self.lower is None else self.lower)
        object.__setattr__(self, "upper", max(self.rates.values()) if self.upper is None else self.upper)

    @property
    def mean_rate(self) -> float:
        """The unweighted mean of the rates over the sites."""
        return math.fsum(self.rates.values()) / len(self.rates)

    def rescaled(self, *, lower: float | None = None, upper: float | None = None) -> DropoutSchedule:
        """Return the same order of sites between other bounds (a bound left out stays)."""
        low, high = bounds(self.lower if lower is None else lower, self.upper if upper is None else upper)
        rates = between(low, high, self._ordered("rescale"))
        return replace(self, rates=rates, lower=low, upper=high)

    def reversed(self) -> DropoutSchedule:
        """Return the opposite order: the most informative site gets `upper`. A control with the same set of bounds."""
        kind = {"guided": "reversed", "reversed": "guided"}.get(self.kind, f"{self.kind} reversed")
        positions = {name: 1.0 - position for name, position in self._ordered("reverse").items()}
        rates = between(*bounds(self.lower, self.upper), positions)
        return replace(self, kind=kind, positions=positions, rates=rates)

    def shuffled(self, seed: int = 0) -> DropoutSchedule:
        """Return the same rates dealt to the sites at random: a control with the same mean and spread."""
        import numpy as np

        names = list(self.rates)
        order = np.random.default_rng(seed).permutation(len(names))
        source = {name: names[i] for name, i in zip(names, order, strict=True)}
        rates = {name: self.rates[other] for name, other in source.items()}
        positions = self.positions and {name: self.positions[other] for name, other in source.items()}
        return replace(self, kind="shuffled", rates=rates, positions=positions)

    def matched_uniform(self) -> DropoutSchedule:
        """Return one rate everywhere with this schedule's mean: the control that separates "guided" from "less"."""
        rate = self.mean_rate
        rates = dict.fromkeys(self.rates, rate)
        return replace(self, kind="matched uniform", rates=rates, positions=None, lower=rate, upper=rate)

    def apply(self, model: nn.Module, *, batch: Mapping[str, Any] | None = None) -> nn.Module:
        """Set the rates of `model` for good and return it; its weights, modes and generators stay.

        The rates are then measured in a training-mode forward on a tiny dummy batch (or on `batch`, keyword arguments
        of the forward). They live in the model's attributes, not in its configuration: a model saved and loaded
        again needs the schedule again.

        Raises
        ------
        ValueError
            If the model's sites are not those of the schedule; nothing was changed.
        RuntimeError
            If some rate did not take; the old rates are back.
        """
        self.set_rates(model, batch)
        return model

    @contextmanager
    def applied(self, model: nn.Module, *, batch: Mapping[str, Any] | None = None) -> Iterator[nn.Module]:
        """Apply the schedule inside a `with` block; the model's own rates are back afterwards, whatever happens."""
        undo = self.set_rates(model, batch)
        try:
            yield model
        finally:
            undo()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON."""
        # a score may be NaN where nothing is known of a site
        save_json(path, {"format": _FORMAT, **asdict(self)}, allow_nan=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DropoutSchedule:
        """Read what `save` wrote; every rate is the same to the last bit.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is damaged, changed or of another kind.
        """
        remedy = "save one with schedule.save(path)"
        names = [field.name for field in fields(cls)]
        content = load_json(path, kind="a dropout schedule", names=names, form=_FORMAT, remedy=remedy)
        try:
            sites = tuple(
                DropoutSite(**{**site, "parameters": tuple(site["parameters"])}) for site in content.pop("sites")
            )
            return cls(**content, sites=sites)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise DamagedFile(f"expected a dropout schedule in {os.fspath(path)}, but {error}; {remedy}") from None

    def to_frame(self) -> pd.DataFrame:
        """One row per site in execution order: order, site, stack, layer, kind, rate, score, rank (0: least)."""
        import pandas as pd

        sites = self.sites or tuple(DropoutSite(name, "", "other", rate, ()) for name, rate in self.rates.items())
        frame = pd.DataFrame(
            {
                "order": range(len(sites)),
                "site": [site.name for site in sites],
                "stack": [site.stack for site in sites],
                "layer": pd.array([site.layer for site in sites], dtype="Int64"),
                "kind": [site.kind for site in sites],
                "rate": [self.rates.get(site.name, float("nan")) for site in sites],
                "score": [(self.scores or {}).get(site.name, float("nan")) for site in sites],
                "parameters": [len(site.parameters) for site in sites],
            }
        )
        frame["rank"] = frame["score"].rank(method="first").sub(1).astype("Int64")
        return frame

    def _repr_html_(self) -> str:
        left = [site for site in self.sites if site.name not in self.rates]
        note = f"; left alone: {', '.join(site.name for site in left)}" if left else ""
        table = (
            self.to_frame().dropna(subset="rate").to_html(index=False, float_format=lambda x: f"{x:.4g}", max_rows=12)
        )
        return (
            f"<p><b>{escape(self.kind)} dropout</b>: {len(self.rates)} sites, rates {min(self.rates.values()):.4g} to "
            f"{max(self.rates.values()):.4g}, mean {self.mean_rate:.4g}{escape(note)}</p>{table}"
        )

    def _ordered(self, change: str) -> dict[str, float]:
        """Return `positions`; raise if there are none, so that no `change` of the order is possible."""
        if self.positions is None:
            raise ValueError(
                f"expected a schedule that orders the sites, got kind {self.kind!r}; {change} a guided one"
            )
        return self.positions

    def _matching(self, base: nn.Module, located: list[LocatedSite]) -> list[LocatedSite]:
        """Return the model's sites that the schedule sets; raise if the two do not fit."""
        present = {place.site.name: place for place in located}
        names = [name for name in self.rates if name in present]
        absent = [name for name in self.rates if name not in present]
        known = {*self.rates, *(site.name for site in self.sites)}  # a site without a rate was left out on purpose
        unset = [name for name, place in present.items() if place.site.scheduled and name not in known]
        # an encoder made from an encoder-decoder takes its part of the schedule
        other_stacks = all(not hasattr(base, name.partition(".")[0]) for name in absent)
        if unset or not names or not other_stacks:
            raise ValueError(
                f"expected a model with the schedule's {len(self.rates)} dropout sites, got one "
                f"{_difference('without', absent)}{' and ' if absent and unset else ''}{_difference('with', unset)}; "
                "make the schedule for this backbone"
            )
        fixed = [name for name in names if present[name].control is None]
        if fixed:
            raise ValueError(f"expected sites whose rate can be set, got {few(fixed)}, written into the model's code")
        return [present[name] for name in names]

    def set_rates(self, model: nn.Module, batch: Mapping[str, Any] | None) -> Callable[[], None]:
        """Set and measure the rates as `apply` does; return what puts the old ones back."""
        located = self._matching(backbone_of(model).base, locate(model, batch=batch))
        rates = [(place.control, self.rates[place.site.name]) for place in located if place.control is not None]
        before = [(control, control.state()) for control, _ in rates]

        def undo() -> None:
            for control, state in reversed(before):
                control.restore(state)

        with model_lock(model):
            try:
                for control, rate in rates:
                    control.set(rate)
                self._verify(model, located, batch)
            except BaseException:
                undo()
                raise
        return undo

    def _verify(self, model: nn.Module, located: list[LocatedSite], batch: Mapping[str, Any] | None) -> None:
        seen = observed(backbone_of(model).model, batch).by_key()
        failed = []
        for place in located:
            wanted = self.rates[place.site.name]
            calls = [seen.get(key) for key in place.keys]
            if not all(call and abs(call.rate - wanted) <= _TOLERANCE for call in calls):
                measured = calls[0].rate if calls[0] else "nothing"
                failed.append(f"{place.site.name} (wanted {wanted:.4g}, measured {measured})")
        if failed:
            raise RuntimeError(
                f"expected a training-mode forward to use the schedule's rates, but {few(failed)} did not take; the "
                "old rates are back, and dropout_sites(model) shows what the model uses"
            )


def uniform_dropout(model: nn.Module, rate: float = 0.1, *, batch: Mapping[str, Any] | None = None) -> DropoutSchedule:
    """Make the schedule with one `rate` at every site of the model's body (0.1 is BERT's usual; 0 is no dropout).

    Raises
    ------
    ValueError
        If `rate` is no probability in [0, 1), or the model has no site to set.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    >>> uniform_dropout(net, 0.1, batch={"input": torch.ones(1, 4)}).rates
    {'1': 0.1}
    """
    rate = probability(rate, "rate")
    sites = tuple(dropout_sites(model, batch=batch))
    rates = {site.name: rate for site in scheduled_sites(sites, model)}
    return DropoutSchedule(rates, kind="uniform", sites=sites, lower=rate, upper=rate)


def _difference(preposition: str, names: list[str]) -> str:
    return f"{preposition} {few(names)}" if names else ""
