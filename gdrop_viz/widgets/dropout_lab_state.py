"""Settings of the DropoutLab with the arms, the call and the code that follow, without a view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gdrop_viz.plots.dropout import rates_picture
from gdrop_viz.plots.picture import Picture

if TYPE_CHECKING:
    from gdrop_viz.dropout import DropoutSchedule

STANDARD_RATE = 0.1

# schedules that follow the two bounds, in the order of the chooser, with the code that makes them from `guided`
SCHEDULES = {
    "guided": "guided",
    "same mean": "guided.matched_uniform()",
    "reversed": "guided.reversed()",
    "shuffled": "guided.shuffled(seed=0)",
}
# arms that do not depend on the bounds, with their code
FIXED_ARMS = {
    "standard 0.1": f"{STANDARD_RATE}",
    "no dropout": "None",
}
ARMS = ("guided", "standard 0.1", "same mean", "reversed", "shuffled", "no dropout")


@dataclass
class DropoutLabState:
    """The settings of the lab, and what follows from them.

    `ranking` is a guided schedule of the model: its bounds do not matter, its order of the sites does. `lower` and
    `upper` are dropout probabilities, `kind` names the schedule in the preview, `arms` what is trained.
    """

    ranking: DropoutSchedule
    lower: float = 0.0
    upper: float = 0.1
    kind: str = "guided"
    arms: tuple[str, ...] = ("guided", "standard 0.1", "same mean")
    fraction: float = 1.0
    n_seeds: int = 3
    epochs: int = 3
    path: str = "runs/"
    options: Mapping[str, Any] = field(default_factory=dict)
    preamble: tuple[str, ...] = ()
    max_rate: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.lower <= self.upper < 1:
            raise ValueError(f"expected rates with 0 <= lower <= upper < 1, got lower={self.lower}, upper={self.upper}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"expected a data fraction above 0 and up to 1, got {self.fraction}")
        for name in ("n_seeds", "epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} to be a whole number of at least 1, got {value!r}")
        self._check_arms()

    def set_bounds(self, *, lower: float | None = None, upper: float | None = None) -> None:
        """Move a bound; the other one is pushed along where they would cross."""
        if lower is not None:
            self.lower, self.upper = lower, max(lower, self.upper)
        if upper is not None:
            self.lower, self.upper = min(self.lower, upper), upper

    def schedule(self, kind: str | None = None) -> DropoutSchedule:
        """The schedule of that kind (by default the chosen one) between the bounds."""
        kind = self.kind if kind is None else kind
        guided = self.ranking.rescaled(lower=self.lower, upper=self.upper)
        if kind == "guided":
            return guided
        if kind == "same mean":
            return guided.matched_uniform()
        if kind == "reversed":
            return guided.reversed()
        if kind == "shuffled":
            return guided.shuffled(seed=0)
        raise ValueError(f"kind must be one of {', '.join(SCHEDULES)}, got {kind!r}")

    def arm_name(self, arm: str) -> str:
        """The arm's name in the results; it tells the bounds, so that runs at several bounds stay apart."""
        return f"{arm} {self.lower:g}-{self.upper:g}" if arm in SCHEDULES else arm

    def prepared_arms(self) -> dict[str, Any]:
        """The arms as `gv.compare` takes them; raises ValueError if none is chosen."""
        self._check_arms()
        fixed = {"standard 0.1": STANDARD_RATE, "no dropout": None}
        return {self.arm_name(arm): fixed[arm] if arm in fixed else self.schedule(arm) for arm in self.arms}

    def call(self) -> dict[str, Any]:
        """The keyword arguments of the `gv.compare` call that Run makes."""
        return {
            "arms": self.prepared_arms(),
            "fractions": [self.fraction],
            "seeds": range(self.n_seeds),
            "epochs": self.epochs,
            "path": self.path,
            **self.options,
        }

    def as_code(self) -> str:
        """The same call as Python; `lm`, `task` and `fisher` are the objects that the lab was given."""
        self._check_arms()
        code = {**SCHEDULES, **FIXED_ARMS}
        arms = "".join(f"        {self.arm_name(arm)!r}: {code[arm]},\n" for arm in self.arms)
        lines = ["import gdrop_viz as gv", *self.preamble]
        if any(arm in SCHEDULES for arm in self.arms):
            lines.append(f"guided = gv.guided_dropout(lm.model, fisher, lower={self.lower!r}, upper={self.upper!r})")
        options = "".join(f"    {name}={value!r},\n" for name, value in self.options.items())
        return "\n".join(lines) + (
            "\nresult = gv.compare(\n    lm,\n    task,\n    arms={\n" + arms + "    },\n"
            f"    fractions=[{self.fraction!r}],\n    seeds=range({self.n_seeds}),\n    epochs={self.epochs},\n"
            f"    path={self.path!r},\n{options})\n"
        )

    def preview(self) -> Picture:
        """The rate of every site by depth, one series per kind of site."""
        schedule = self.schedule()
        picture = rates_picture(
            schedule,
            title=f"Dropout rates of the {len(schedule.rates)} sites: {self.kind}",
            top=max(self.max_rate, self.upper),
            references={"standard 0.1": STANDARD_RATE},
        )
        trained = ", ".join(self.arm_name(arm) for arm in self.arms) or "none"
        return replace(picture, summary=f"{self.kind}: {picture.summary}. Arms to train: {trained}.")

    def _check_arms(self) -> None:
        if not self.arms:
            raise ValueError(f"choose at least one arm to train: {', '.join(ARMS)}")
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise ValueError(f"arms must be among {', '.join(ARMS)}, got {unknown[0]!r}")
