"""How does a killed estimation go on? Its sums lie in one safetensors file beside the count of batches they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from gdrop_viz._files import atomic_path
from gdrop_viz._processes import distributed
from gdrop_viz.fisher.batch import Batch, Objective
from gdrop_viz.fisher.sums import Sums

_KIND = "gdrop_viz Fisher checkpoint"


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
    """The file of one estimation; `fingerprint` says to which one it belongs. With `path` None nothing is written."""

    def __init__(self, path: str | Path | None, fingerprint: str) -> None:
        self.path = None if path is None else _of_this_process(Path(path))
        self.fingerprint = fingerprint

    def write(self, sums: Sums, batches_done: int) -> None:
        from safetensors.torch import save_file

        header = {"kind": _KIND, "fingerprint": self.fingerprint, "batches": batches_done}
        with atomic_path(self.path) as temporary:
            tensors = {name: tensor.contiguous() for name, tensor in sums.tensors().items()}
            save_file(tensors, temporary, metadata={"gdrop_viz": json.dumps(header)})

    def restore(self, sums: Sums) -> int:
        """Fill `sums` from the file, if there is one; returns how many batches they hold.

        Raises ValueError if the file is damaged or of another run: delete it, or take another path.
        """
        if self.path is None or not self.path.exists():
            return 0
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("gdrop_viz", "{}"))
                if header.get("kind") != _KIND:
                    raise ValueError(f"{self.path} is not a Fisher checkpoint; choose another path for checkpoint=.")
                if header["fingerprint"] != self.fingerprint:
                    raise ValueError(
                        f"{self.path} is the checkpoint of another run (other weights, text or settings); "
                        "delete it or choose another path for checkpoint=."
                    )
                sums.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError, RuntimeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it and start again.") from error
        return int(header["batches"])


def _of_this_process(path: Path) -> Path:
    """Under torchrun each process keeps its own sums."""
    if not distributed():
        return path
    return path.with_name(f"{path.stem}.rank{torch.distributed.get_rank()}{path.suffix}")
