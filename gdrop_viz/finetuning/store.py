"""Store of finished runs: a folder of JSON files, in which runs of other settings never mix.

One run is one JSON file, named by a fingerprint of everything that determines its result. It is written whole or not
at all, so whatever the folder holds is finished.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdrop_viz.base.digest import digest
from gdrop_viz.base.files import exclusive
from gdrop_viz.base.processes import is_first
from gdrop_viz.base.saved import load_json, save_json

logger = logging.getLogger(__name__)

FORMAT = "gdrop_viz run 1"


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return 20 hex digits that name `settings` (a JSON-like mapping); equal settings, in any order, share them.

    >>> fingerprint({"seed": 0, "fraction": 1.0}) == fingerprint({"fraction": 1.0, "seed": 0})
    True
    """
    return digest(settings)[:20]


@dataclass(frozen=True)
class RunStore:
    """The finished runs in the folder `path`; with None they live in memory only.

    >>> import tempfile
    >>> store = RunStore.open(tempfile.mkdtemp())
    >>> store.write({"seed": 0}, [{"epoch": 1, "value": float("nan")}], about={"arm": "standard"})
    >>> store.read({"seed": 0}), store.read({"seed": 1})
    ([{'epoch': 1, 'value': nan}], None)
    """

    path: Path | None
    memory: dict[str, list[dict[str, Any]]]

    @classmethod
    def open(cls, path: Any) -> RunStore:
        """Open (and make) the folder; raises NotADirectoryError or PermissionError in one line before any work."""
        if path is None:
            return cls(None, {})
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(
                f"expected path as a folder for the finished runs, got {path}, which is a file; name another"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                error.errno, f"the folder {str(path)!r} for the finished runs cannot be made; name another"
            ) from error
        return cls(path, {})

    def read(self, settings: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the rows of the finished run with these settings, or None if there is none."""
        name = fingerprint(settings)
        if self.path is None:
            return self.memory.get(name)
        file = self.path / f"{name}.json"
        if not file.exists():
            return None
        return _content(file)["rows"]

    def write(
        self, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, about: Mapping[str, Any]
    ) -> None:
        """Keep a finished run; `about` (names of arm, model, task) is noted for readers and does not identify it."""
        name = fingerprint(settings)
        if self.path is None:
            self.memory[name] = [dict(row) for row in rows]
            return
        # JSON has no NaN; null is read back as NaN
        kept = [{key: None if _is_nan(value) else value for key, value in row.items()} for row in rows]
        content = {"format": FORMAT, "about": dict(about), "settings": settings, "rows": kept}
        save_json(self.path / f"{name}.json", content)
        logger.info("kept run %s (%s)", name, about)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other comparisons out of the folder while this one writes there; RuntimeError if one is at work."""
        with exclusive(self.path, folder=True) if self.path is not None and is_first() else nullcontext():
            yield

    def all(self) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
        """Yield settings, names and rows of every run in the folder, by the names of the files."""
        for file in sorted(self.path.glob("[0-9a-f]" * 20 + ".json")) if self.path else ():
            content = _content(file)
            yield content["settings"], content["about"], content["rows"]

    def groups(self) -> list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
        """Return the runs in the folder, those of equal common settings together.

        For each group the common settings, the names of its first run, and the rows of all its runs with their arm,
        fraction and seed.
        """
        groups: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {}
        for settings, about, rows in self.all():
            _, _, gathered = groups.setdefault(digest(settings["common"]), (settings["common"], about, []))
            key = {"arm": about["arm"], "fraction": settings["fraction"], "seed": settings["seed"]}
            gathered += [{**key, **row} for row in rows]
        return list(groups.values())


def _content(file: Path) -> dict[str, Any]:
    """Return what a file holds, null read as NaN; raise ValueError if it is not the finished run its name promises."""
    remedy = "delete it to run it again, or move it out of the folder"
    kind = "a finished run of this version of gdrop_viz"
    content = load_json(file, kind=kind, names=("about", "settings", "rows"), form=FORMAT, remedy=remedy)
    try:
        if fingerprint(content["settings"]) != file.stem:
            raise ValueError("its settings belong to another file name")
        content["rows"] = [
            {**row, "value": math.nan if row["value"] is None else row["value"]} for row in content["rows"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected {kind}, but {file} holds something else ({error}); {remedy}") from None
    return content


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
