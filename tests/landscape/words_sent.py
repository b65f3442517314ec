"""A model that notes each process in which it is unpacked, and a slow metric: for workers of another process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.landscape import words


class Noted(nn.Module):
    """`words.scorer` that appends the process id to the file `log` when it is unpacked."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.log, self.inner = log, words.scorer()

    def forward(self, input: Tensor) -> Tensor:
        return self.inner(input)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()}\n")


def slow(model: nn.Module, batches: Any) -> float:
    """The accuracy, a fifth of a second later."""
    time.sleep(0.2)
    return words.accuracy(model, batches)
