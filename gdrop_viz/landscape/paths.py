"""Paths between checkpoints: loss lines with their barrier, and trajectories of a training on a plane."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import number, whole
from gdrop_viz.base.saved import Saved
from gdrop_viz.landscape.evaluation import Batch, Metric
from gdrop_viz.landscape.surface import Surface
from gdrop_viz.landscape.sweep import SurfacePoint, loss_surface
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.checkpoints import weights_of
from gdrop_viz.perturbation.directions import Direction, difference_direction
from gdrop_viz.perturbation.selection import Selection

if TYPE_CHECKING:
    import pandas as pd

    Checkpoint = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]


@dataclass(frozen=True, eq=False, repr=False)
class LossLine(Saved):
    """The loss along the straight line from one checkpoint (t = 0) to another (t = 1).

    `surface` is the line as a 1-D surface with x = t: everything that surfaces do, and their pictures, apply.
    """

    surface: Surface

    @property
    def t(self) -> np.ndarray:
        """Where the points lie: 0 is the first checkpoint, 1 the second."""
        return self.surface.x

    @property
    def loss(self) -> np.ndarray:
        """The loss at each of them, nats."""
        return self.surface.loss

    @property
    def barrier(self) -> float:
        """The largest excess of the loss over the straight line between the two ends' losses, within 0 <= t <= 1.

        max over t of L(t) - [(1 - t) L(0) + t L(1)] (Frankle et al. 2020, arXiv 1912.05671, without their division);
        0 where the loss never lies above, inf or NaN where the line diverges.
        """
        return float(self._excess().max())

    @property
    def barrier_standard_error(self) -> float:
        """The standard error of the excess at the barrier's top, over sequences (paired); NaN without them."""
        sequences = self.surface.sequence_losses
        if sequences is None or sequences.shape[-1] < 2:
            return float("nan")
        inside = self._inside()
        t = self.t[inside]
        each = sequences[inside]
        excess = each - (1 - t)[:, None] * each[t == 0] - t[:, None] * each[t == 1]
        top = excess[int(self._excess().argmax())]
        return float(top.std(ddof=1) / np.sqrt(len(top)))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per point: t, loss, standard_error, and (0 <= t <= 1) excess over the ends' line."""
        frame = self.surface.to_frame().rename(columns={"x": "t"})
        inside = self._inside()
        frame.loc[inside, "excess"] = self._excess()
        return frame

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the line as a 1-D surface (.h5, .csv)."""
        self.surface.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LossLine:
        """Read a line that `save` wrote, or that `loss_line` kept in its `path`."""
        return _line(Surface.load(path))

    def _summary(self) -> str:
        ends = f"{self.loss[self.t == 0][0]:.4f} to {self.loss[self.t == 1][0]:.4f} nats"
        return f"{self.surface.label!r}: {ends}, barrier {self.barrier:.4f} ± {self.barrier_standard_error:.2g}"

    def _table(self) -> None:
        return None

    def _inside(self) -> np.ndarray:
        return (self.t >= 0) & (self.t <= 1)

    def _excess(self) -> np.ndarray:
        inside = self._inside()
        t, loss = self.t[inside], self.loss[inside]
        return loss - (1 - t) * loss[t == 0] - t * loss[t == 1]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory(Saved):
    """A path of checkpoints as it is seen from a plane through a model's weights.

    Attributes
    ----------
    coordinates
        (T, 2): the projection of each checkpoint, in multiples of the plane's two directions.
    distances
        (T,): Euclidean distance of each checkpoint from the model.
    off_plane
        (T,): the part of it that is perpendicular to the plane.
    explained
        The plane's share of the path: 1 - Σ off_plane² / Σ distances².
    """

    coordinates: np.ndarray
    distances: np.ndarray
    off_plane: np.ndarray

    @property
    def explained(self) -> float:
        """The plane's share of the path."""
        total = float((self.distances**2).sum())
        return 1.0 - float((self.off_plane**2).sum()) / total if total else 1.0

    def to_frame(self) -> pd.DataFrame:
        """Return one row per checkpoint: x, y, distance, off_plane."""
        import pandas as pd

        columns = {"x": self.coordinates[:, 0], "y": self.coordinates[:, 1], "distance": self.distances}
        return pd.DataFrame({**columns, "off_plane": self.off_plane}).rename_axis("checkpoint")

    def _summary(self) -> str:
        return f"{len(self.distances)} checkpoints, {100 * self.explained:.1f} % of the path in the plane"

    def _table(self) -> None:
        return None


def loss_line(
    model: nn.Module,
    end: nn.Module | Mapping[str, Tensor],
    batches: Sequence[Batch],
    points: int = 21,
    *,
    beyond: float = 0.0,
    label: str = "",
    path: str | os.PathLike[str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    loss: Loss | None = None,
    version: str | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    on_point: Callable[[SurfacePoint], Any] | None = None,
    stop: threading.Event | None = None,
) -> LossLine:
    """Evaluate the loss of `model` on the straight line from its weights to those of `end`.

    `end` is a model or a state dict with the same backbone; what it lacks (a head) stays as it is in `model`. So the
    pretraining loss can be followed from the pretrained weights to fine-tuned ones, or a task's loss between two
    fine-tuned models. `beyond` continues the line by that much on either side (0.25: -0.25 <= t <= 1.25).
    All other parameters are those of `loss_surface`. t = 0 and t = 1 are always among the points.

    Raises
    ------
    ValueError
        As `difference_direction` and `loss_surface` do.

    >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> line = loss_line(a, b, [{"input": torch.ones(4, 2)}], points=3, loss=square, progress=False)
    >>> line.t, line.barrier <= 0  # a convex loss has no barrier
    (array([0. , 0.5, 1. ]), True)
    """
    points = whole(points, "points", least=3)
    beyond = number(beyond, "beyond", least=0)
    label = label or "from one checkpoint to the other"
    way = difference_direction(model, end, label=label)
    step = 1 / (points - 1)
    extra = int(np.ceil(beyond / step - 1e-9))
    # whole steps on either side keep 0 and 1 on the grid
    grid = (-extra * step, 1 + extra * step)
    surface = loss_surface(
        model, batches, way, [grid], points + 2 * extra, label=label, path=path, metrics=metrics, loss=loss,
        version=version, progress=progress, executor=executor, on_point=on_point, stop=stop,
    )  # fmt: skip
    return _line(surface)


def project_trajectory(
    model: nn.Module, checkpoints: Sequence[Checkpoint], directions: Sequence[Direction]
) -> Trajectory:
    """Project checkpoints onto the plane θ + x·d₁ + y·d₂ through the weights θ of `model` (least squares).

    Checkpoints are models, state dicts, or safetensors files (read one at a time). Parameters that a checkpoint
    lacks count as not moved. Raises ValueError if the directions do not span a plane.

    >>> from gdrop_viz.perturbation import random_direction
    >>> model = nn.Linear(3, 3)
    >>> plane = [random_direction(model, seed=seed) for seed in (0, 1)]
    >>> moved = {"weight": model.weight.detach() + 0.5 * plane[0].vectors["weight"]}
    >>> project_trajectory(model, [moved], plane).coordinates.round(4) + 0.0
    array([[0.5, 0. ]])
    """
    if len(directions) != 2:
        raise ValueError(f"expected two directions that span a plane, got {len(directions)}")
    products = np.array([[a.dot(b) for b in directions] for a in directions])
    if np.linalg.cond(products) > 1e12:
        raise ValueError("expected two directions that span a plane, got two that are parallel; take other ones")
    rows = [_projected(model, checkpoint, directions) for checkpoint in _some(checkpoints)]
    inner, squares = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    coordinates = np.linalg.solve(products, inner.T).T
    within = np.einsum("ti,ti->t", coordinates, inner)
    return Trajectory(coordinates, np.sqrt(squares), np.sqrt(np.clip(squares - within, 0, None)))


def trajectory_directions(
    model: nn.Module, checkpoints: Sequence[Checkpoint], *, selection: Selection | None = None
) -> tuple[Direction, Direction]:
    """Return the two directions that hold most of a trajectory: principal components of θ_t - θ.

    θ are the weights of `model`, the centre of the plane (Li et al. 2018, section 7, take the last checkpoint); the
    differences are not centred, so that the plane goes through θ. Each direction's norm is the root mean square of
    the checkpoints' extent along it, so that the path covers a few units. With a selection only the path of its
    elements is looked at. All checkpoints are held in memory once.

    Raises ValueError if the checkpoints do not span a plane (fewer than two that differ from `model`).

    >>> model = nn.Linear(3, 1)
    >>> path = [{"weight": model.weight.detach() + torch.tensor([[t, t * t, 0.0]])} for t in (1.0, 2.0, 3.0)]
    >>> d1, d2 = trajectory_directions(model, path)
    >>> round(project_trajectory(model, path, [d1, d2]).explained, 6)
    1.0
    """
    differences = [_difference(model, checkpoint, selection) for checkpoint in _some(checkpoints)]
    n = len(differences)
    gram = np.zeros((n, n))
    for i in range(n):
        for j in range(i, n):
            gram[i, j] = gram[j, i] = _dot(differences[i], differences[j])
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    if n < 2 or values[1] <= 1e-12 * values[0]:
        raise ValueError(
            "expected checkpoints that span a plane with the model, got fewer than two that differ from it"
        )
    found = []
    for i in range(2):
        weights = vectors[:, i] / np.sqrt(values[i])  # a unit vector in weight space
        parts: dict[str, Tensor] = {}
        for weight, difference in zip(weights, differences, strict=True):
            for name, tensor in difference.items():
                parts[name] = parts[name] + float(weight) * tensor if name in parts else float(weight) * tensor
        where = "" if selection is None else selection.label
        direction = Direction(parts, label=f"principal component {i + 1} of the path", selection=where)
        found.append(direction.scaled(float(np.sqrt(values[i] / n))))
    return found[0], found[1]


def _line(surface: Surface) -> LossLine:
    # the spacing may have rounded t = 1 away
    t = np.where(np.abs(surface.x - 1) < 1e-9, 1.0, surface.x)
    axis = "t (0: the first checkpoint, 1: the second)"
    return LossLine(replace(surface, x=t, metadata={**surface.metadata, "axis": axis}))


def _some(checkpoints: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
    if isinstance(checkpoints, (nn.Module, Mapping, str)) or not len(checkpoints):
        raise ValueError("expected a sequence of at least one checkpoint, got none; wrap a single one in a list")
    return checkpoints


def _difference(model: nn.Module, checkpoint: Checkpoint, selection: Selection | None = None) -> Mapping[str, Tensor]:
    return difference_direction(model, weights_of(checkpoint), selection=selection).vectors


def _projected(model: nn.Module, checkpoint: Checkpoint, directions: Sequence[Direction]) -> tuple[list[float], float]:
    """Inner products of θ_t - θ with the directions, and its squared norm."""
    difference = _difference(model, checkpoint)
    return [_dot(difference, direction.vectors) for direction in directions], _dot(difference, difference)


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float((a[name] * b[name]).sum(dtype=torch.float64)) for name in a if name in b)
