"""Checkpoint of a running estimation: its sums in one safetensors file, beside the count of batches they hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from gdrop_viz.base.digest import Undigestible, digest
from gdrop_viz.base.files import exclusive
from gdrop_viz.base.processes import distributed
from gdrop_viz.base.saved import load_tensors, save_tensors
from gdrop_viz.fisher.batch import Batch, Objective
from gdrop_viz.fisher.sums import Sums
from gdrop_viz.models.digest import model_digest

logger = logging.getLogger(__name__)

_KIND = "gdrop_viz Fisher checkpoint"
_SHARE = 10  # a write waits this many times what the last one took


def fingerprint(
    model: nn.Module,
    batches: Sequence[Batch],
    objective: Objective,
    resolution: str,
    method: str,
    names: list[str],
    version: str | None = None,
) -> str:
    """A digest of everything that determines the sums: model, text in its batches, settings, and the loss.

    Raises Undigestible (a ValueError) for a loss whose content cannot be read and that no `version` names.
    """
    settings = {key: value for key, value in asdict(objective).items() if key != "loss"}
    loss = objective.loss if version is None else version
    texts = [dict(batch) for batch in batches]
    try:
        return digest(model_digest(model), texts, settings, resolution, method, names, loss)
    except Undigestible as error:
        raise Undigestible(
            f"a checkpoint of this loss= could not be recognised again ({error}); name it by version=, "
            "and change the name whenever the loss changes"
        ) from None


class Checkpoint:
    """The file of one estimation; `identity` gives its `fingerprint`. With `path` None nothing is written or asked.

    `seconds` is the longest time between two writings.
    """

    def __init__(self, path: str | Path | None, identity: Callable[[], str], *, seconds: float = 60.0) -> None:
        self.path = None if path is None else _of_this_process(Path(path))
        self.fingerprint = "" if path is None else identity()
        self.seconds = seconds
        self._cost, self._written, self._batches = 0.0, time.monotonic(), 0

    def write_if_due(self, sums: Sums, batches_done: int, *, always: bool = False) -> None:
        """Write after every batch, but spend at most a tenth of the time on it while `seconds` are not over."""
        waited = time.monotonic() - self._written
        due = always or waited >= min(self.seconds, _SHARE * self._cost)
        if batches_done == self._batches or not due:
            return
        began = time.monotonic()
        self.write(sums, batches_done)
        self._written, self._batches = time.monotonic(), batches_done
        self._cost = self._written - began

    def write(self, sums: Sums, batches_done: int) -> None:
        """Put the sums after so many batches into the file; the old ones stay until the new are whole."""
        if self.path is None:
            return
        header = {"kind": _KIND, "fingerprint": self.fingerprint, "batches": batches_done}
        save_tensors(self.path, "gdrop_viz", header, sums.tensors())
        logger.info("checkpoint after %d batches in %s", batches_done, self.path)

    def restore(self, sums: Sums) -> int:
        """Fill `sums` from the file, if there is one; returns how many batches they hold.

        Raises ValueError if the file is damaged or of another run.
        """
        if self.path is None or not self.path.exists():
            return 0
        header, tensors = load_tensors(self.path, "gdrop_viz", remedy="delete it and start again")
        if header.get("kind") != _KIND:
            raise ValueError(f"{self.path} is not a Fisher checkpoint; choose another path for checkpoint=")
        if header.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{self.path} is the checkpoint of another run (another model, text, loss or settings); "
                "move it away or choose another path for checkpoint="
            )
        try:
            sums.restore(tensors)
            self._batches = int(header["batches"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it and start again") from error
        logger.info("going on after %d batches from %s", self._batches, self.path)
        return self._batches

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs away from the file; without a file there is nothing to lock."""
        with nullcontext() if self.path is None else exclusive(self.path):
            yield


def _of_this_process(path: Path) -> Path:
    """Under torchrun each process keeps its own sums."""
    if not distributed():
        return path
    return path.with_name(f"{path.stem}.rank{torch.distributed.get_rank()}{path.suffix}")
