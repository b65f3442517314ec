"""How does a killed estimation go on? Its sums lie in one safetensors file beside the count of batches they hold."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from gdrop_viz._files import exclusive
from gdrop_viz._processes import distributed
from gdrop_viz._sealed import load_tensors, save_tensors
from gdrop_viz.fisher.batch import Batch, Objective
from gdrop_viz.fisher.sums import Sums

logger = logging.getLogger(__name__)

_KIND = "gdrop_viz Fisher checkpoint"
_SHARE = 10  # a write waits this many times what the last one took


def fingerprint(
    model: nn.Module, batches: Sequence[Batch], objective: Objective, resolution: str, names: list[str]
) -> str:
    """A checksum of everything that determines the result: weights, text, batching and settings."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in asdict(objective).items() if k != "loss"}
    digest.update(json.dumps([settings, resolution, names, objective.loss is not None], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        # two sums tell weights apart at the speed of reading them
        wide = tensor.detach().double() if tensor.is_floating_point() else tensor.double()
        digest.update(f"{tuple(tensor.shape)} {wide.sum().item()!r} {wide.square().sum().item()!r}".encode())
    for batch in batches:
        for name in sorted(batch):
            value = batch[name]
            if isinstance(value, Tensor):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Checkpoint:
    """The file of one estimation; `fingerprint` says to which one it belongs. With `path` None nothing is written.

    `seconds` is the longest time between two writings.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, *, seconds: float = 60.0) -> None:
        self.path = None if path is None else _of_this_process(Path(path))
        self.fingerprint = fingerprint
        self.seconds = seconds
        self._cost, self._written, self._batches = 0.0, time.monotonic(), 0

    def write_if_due(self, sums: Sums, batches_done: int, *, always: bool = False) -> None:
        """Write after every batch, but spend at most a tenth of the time on it while `seconds` are not over."""
        waited = time.monotonic() - self._written
        due = always or waited >= min(self.seconds, _SHARE * self._cost)
        if self.path is None or batches_done == self._batches or not due:
            return
        began = time.monotonic()
        self.write(sums, batches_done)
        self._written, self._batches = time.monotonic(), batches_done
        self._cost = self._written - began

    def write(self, sums: Sums, batches_done: int) -> None:
        """Put the sums after so many batches into the file; the old ones stay until the new are whole."""
        header = {"kind": _KIND, "fingerprint": self.fingerprint, "batches": batches_done}
        save_tensors(self.path, "gdrop_viz", header, sums.tensors())
        logger.info("checkpoint after %d batches in %s", batches_done, self.path)

    def restore(self, sums: Sums) -> int:
        """Fill `sums` from the file, if there is one; returns how many batches they hold.

        Raises ValueError if the file is damaged or of another run: delete it, or take another path.
        """
        if self.path is None or not self.path.exists():
            return 0
        header, tensors = load_tensors(self.path, "gdrop_viz", remedy="delete it and start again")
        if header.get("kind") != _KIND:
            raise ValueError(f"{self.path} is not a Fisher checkpoint; choose another path for checkpoint=.")
        try:
            if header["fingerprint"] != self.fingerprint:
                raise ValueError(
                    f"{self.path} is the checkpoint of another run (other weights, text or settings); "
                    "delete it or choose another path for checkpoint=."
                )
            sums.restore(tensors)
            batches = int(header["batches"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it and start again.") from error
        self._batches = batches
        logger.info("going on after %d batches from %s", batches, self.path)
        return batches

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs away from the file; without a file there is nothing to keep."""
        with nullcontext() if self.path is None else exclusive(self.path):
            yield


def _of_this_process(path: Path) -> Path:
    """Under torchrun each process keeps its own sums."""
    if not distributed():
        return path
    return path.with_name(f"{path.stem}.rank{torch.distributed.get_rank()}{path.suffix}")
