"""Running sums over sequences: squared gradients per parameter, and the mean score of each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.fisher.per_sample import Use
from gdrop_viz.fisher.squares import add_squares, squared_norms

# beyond this many rows, neighbouring sequences' means are averaged: a long run keeps a bounded history
HISTORY_ROWS = 8192
# after so many sequences the squares move to a sum of sums: float32 loses what is small beside a long sum
FOLD = 4096


class IncompleteSum(RuntimeError):
    """A sum holds a part of what was being added to it, so the estimation cannot go on."""


@dataclass
class Sums:
    """Running sums over sequences.

    squares: Σ_n G_n² for each parameter (element resolution only), in at least float32, over the sequences since the
        last fold; `earlier` holds the sum of those before (None in runs of fewer than `FOLD` sequences), so that the
        rounding of a million sequences is that of a few thousand. `gather` adds the two.
    history: mean score of each tensor for each sequence (or block of `block` sequences), rows of length P. The means
        and their standard errors come from float64 moments, so that long runs do not drift.
    """

    names: list[str]
    numel: np.ndarray
    squares: dict[str, Tensor] | None
    total: np.ndarray = field(init=False)
    total_squares: np.ndarray = field(init=False)
    n_sequences: int = 0
    block: int = 1
    history: list[np.ndarray] = field(default_factory=list)
    earlier: dict[str, Tensor] | None = None
    _batch: np.ndarray | None = None
    _folded: int = 0

    def __post_init__(self) -> None:
        self.total = np.zeros(len(self.names))
        self.total_squares = np.zeros(len(self.names))
        self._column = {name: index for index, name in enumerate(self.names)}
        self._pending = np.zeros((0, len(self.names)))

    @classmethod
    def of(cls, parameters: Mapping[str, nn.Parameter], *, elements: bool) -> Sums:
        squares = None
        if elements:
            squares = {
                name: torch.zeros(p.shape, dtype=torch.promote_types(p.dtype, torch.float32), device=p.device)
                for name, p in parameters.items()
            }
        return cls(list(parameters), np.array([p.numel() for p in parameters.values()], dtype=float), squares)

    # --- one batch ---------------------------------------------------------------------------------------------------

    def begin(self, sequences: int) -> None:
        """Start a batch of so many sequences."""
        self._batch = np.zeros((sequences, len(self.names)))

    def add_uses(self, name: str, uses: list[Use], row: int) -> None:
        """Add the squared per-sequence gradients of one parameter, given by its uses.

        `row` is the place of the first of these sequences in the open batch. Raises IncompleteSum if memory ran out
        when some of them had been added: then the sum is neither with nor without them.
        """
        try:
            norms = squared_norms(uses) if self.squares is None else add_squares(uses, self.squares[name])
        except RuntimeError as error:
            raise IncompleteSum(f"adding the squares of {name!r} broke off ({error}); make smaller batches") from error
        self.batch_norms[row : row + len(norms), self._column[name]] += norms.double().cpu().numpy()

    def add_gradient(self, name: str, gradient: Tensor | None, row: int) -> None:
        """Add the gradient of the sequence at `row` of the open batch (the loop)."""
        if gradient is None:
            return
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        if self.squares is not None:
            self.squares[name].addcmul_(gradient, gradient)
        self.batch_norms[row, self._column[name]] += float(gradient.square().sum(dtype=torch.float64))

    @property
    def batch_norms(self) -> np.ndarray:
        """‖G_n‖² of each sequence of the open batch (rows) and each tensor (columns)."""
        if self._batch is None:
            raise ValueError("No batch is open: begin() starts one.")
        return self._batch

    def end(self, where: str) -> None:
        """Close the batch: its sequences count from now on. Raises ValueError on gradients that are not finite."""
        means = self.batch_norms / self.numel
        if not np.isfinite(means).all():
            row, column = np.argwhere(~np.isfinite(means))[0]
            raise ValueError(
                f"The gradient of {self.names[column]!r} for sequence {row} of {where} is not finite although its loss "
                "is: half precision overflows, or eager attention has a row with nothing to attend to (padding)."
            )
        self.total += means.sum(0)
        self.total_squares += np.square(means).sum(0)
        self.n_sequences += len(means)
        self._keep(means)
        self._batch = None
        self._fold()

    def _fold(self) -> None:
        if self.squares is None or self.n_sequences - self._folded < FOLD:
            return
        if self.earlier is None:
            self.earlier = {name: torch.zeros_like(square) for name, square in self.squares.items()}
        for name, square in self.squares.items():
            self.earlier[name] += square
            square.zero_()
        self._folded = self.n_sequences

    def gather(self) -> None:
        """Make `squares` the sums over all sequences."""
        for name, square in (self.squares or {}).items():
            if self.earlier is not None:
                square += self.earlier[name]
        self.earlier = None

    # --- results -----------------------------------------------------------------------------------------------------

    def means(self) -> np.ndarray:
        return self.total / max(1, self.n_sequences)

    def standard_errors(self) -> np.ndarray:
        """Standard error of the means over sequences: sample standard deviation / sqrt(N); NaN for one sequence."""
        n = self.n_sequences
        if n < 2:
            return np.full(len(self.names), np.nan)
        variance = np.maximum(0, self.total_squares - n * self.means() ** 2) / (n - 1)
        return np.sqrt(variance / n)

    def history_rows(self) -> np.ndarray:
        """(rows, P): the mean scores of successive blocks of `block` sequences."""
        return np.concatenate([np.zeros((0, len(self.names))), *self.history])

    def _keep(self, means: np.ndarray) -> None:
        rows = np.concatenate([self._pending, means])
        whole = len(rows) // self.block * self.block
        self._pending = rows[whole:]
        self.history.append(rows[:whole].reshape(-1, self.block, len(self.names)).mean(1))
        while sum(map(len, self.history)) > HISTORY_ROWS:
            kept = self.history_rows()
            even = len(kept) // 2 * 2
            self._pending = np.concatenate([np.repeat(kept[even:], self.block, axis=0), self._pending])
            self.history = [kept[:even].reshape(-1, 2, len(self.names)).mean(1)]
            self.block *= 2

    # --- on disk -----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for a checkpoint."""
        arrays = {
            "total": self.total,
            "total_squares": self.total_squares,
            "history": self.history_rows(),
            "pending": self._pending,
            "counts": np.array([self.n_sequences, self.block, self._folded]),
        }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        for name, square in (self.squares or {}).items():
            tensors[f"squares/{name}"] = square
        for name, earlier in (self.earlier or {}).items():
            tensors[f"earlier/{name}"] = earlier
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave, bit by bit."""
        self.total = tensors["total"].numpy().copy()
        self.total_squares = tensors["total_squares"].numpy().copy()
        self.history = [tensors["history"].numpy().copy()]
        self._pending = tensors["pending"].numpy().copy()
        self.n_sequences, self.block, self._folded = map(int, tensors["counts"])
        for name, square in (self.squares or {}).items():
            square.copy_(tensors[f"squares/{name}"])
        if self._folded and self.squares is not None:
            self.earlier = {name: tensors[f"earlier/{name}"].to(square.device) for name, square in self.squares.items()}

    def merge(self, others: list[Mapping[str, Tensor]]) -> None:
        """Become the sum over processes: `others` are the `tensors()` of every one of them, in rank order."""
        self.total = np.sum([tensors["total"].numpy() for tensors in others], axis=0)
        self.total_squares = np.sum([tensors["total_squares"].numpy() for tensors in others], axis=0)
        self.n_sequences = sum(int(tensors["counts"][0]) for tensors in others)
        self.history = [tensors["history"].numpy() for tensors in others]
        self._pending = np.zeros((0, len(self.names)))
        self.block = max(int(tensors["counts"][1]) for tensors in others)
