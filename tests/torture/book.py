"""The book of a campaign: each trial's outcome is one line of a file, so that it goes on after a stop."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Book:
    """The outcomes of one campaign's trials; with `path` None they are kept in memory only."""

    path: Path | None = None
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    outcome = json.loads(line)
                    self.outcomes[outcome["trial"]] = outcome
                except (ValueError, KeyError):  # the line that a kill cut off
                    continue

    def do(self, trial: str, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Do `work` unless its outcome is known; what it raises is a failure of the trial."""
        if trial not in self.outcomes:
            try:
                outcome = {"trial": trial, "failed": None, **(work() or {})}
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                outcome = {"trial": trial, "failed": text}
            self.add(outcome)
        return self.outcomes[trial]

    def add(self, outcome: dict[str, Any]) -> None:
        """Put down one outcome at once."""
        self.outcomes[outcome["trial"]] = outcome
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome) + "\n")

    @property
    def failures(self) -> list[str]:
        """What went wrong, one line per failed trial."""
        return [f"{name}: {outcome['failed']}" for name, outcome in self.outcomes.items() if outcome["failed"]]

    def total(self, name: str, trials: Iterable[str] | None = None) -> int:
        """The sum of a count over the trials."""
        chosen = self.outcomes.values() if trials is None else (self.outcomes[trial] for trial in trials)
        return sum(outcome.get(name, 0) for outcome in chosen)

    def counts(self, name: str) -> Counter:
        """The sums of a mapping of counts over the trials."""
        return sum((Counter(outcome.get(name, {})) for outcome in self.outcomes.values()), Counter())
