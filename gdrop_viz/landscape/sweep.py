"""Loss surfaces, computed point by point, coarse to fine, each kept at once, here or by an executor's workers."""

from __future__ import annotations

import logging
import numbers
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from gdrop_viz.base.digest import digest
from gdrop_viz.base.files import exclusive
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.locks import model_lock
from gdrop_viz.base.parallel import Job, check_executor, packed, results
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.landscape.evaluation import (
    Batch,
    Metric,
    PointValue,
    Stopped,
    checked,
    evaluating,
    evaluating_in_worker,
)
from gdrop_viz.landscape.extent import proposed_extent
from gdrop_viz.landscape.fingerprint import fingerprint, of_directions
from gdrop_viz.landscape.grid import coarse_to_fine, coordinates
from gdrop_viz.landscape.growing import GrowingSurface
from gdrop_viz.landscape.surface import Surface, surface_path
from gdrop_viz.models.losses import Loss, loss_unit
from gdrop_viz.perturbation.directions import Direction

logger = logging.getLogger(__name__)

Extent = float | Sequence[float | tuple[float, float]] | None
Found = Generator[tuple[Any, PointValue], None, None]


@dataclass(frozen=True, eq=False)
class SurfacePoint:
    """One point as it arrives: where it lies, what was found, and how far the work has come.

    `surface()` gives the surface so far: a copy, which later points do not change.
    """

    label: str
    index: tuple[int, ...]
    coefficients: tuple[float, ...]
    loss: float
    standard_error: float
    n_done: int
    n_points: int
    surface: Callable[[], Surface]


def loss_surface(
    model: nn.Module,
    batches: Sequence[Batch],
    directions: Direction | Sequence[Direction],
    extent: Extent = 1.0,
    points: int | Sequence[int] = 21,
    *,
    path: str | os.PathLike[str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    loss: Loss | None = None,
    version: str | None = None,
    label: str | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    on_point: Callable[[SurfacePoint], Any] | None = None,
    stop: threading.Event | None = None,
) -> Surface:
    """Evaluate the loss at θ + x·d₁ (+ y·d₂) on a grid around the model's weights θ.

    Every point sees the same sequences with the same labels, in eval mode, and its value is the mean over sequences
    of each one's mean loss per predicted token (nats).

    Parameters
    ----------
    batches
        What `pretraining_batches` returns, or any sequence of dicts that `sequence_losses` understands.
    directions
        One direction (a line) or two (a plane).
    extent
        The grid spans ±extent in multiples of the directions; a sequence gives one entry per axis, a number or
        (low, high). None: chosen so that basin and walls are seen (`proposed_extent`).
    points
        Points per axis, or one number per axis. An odd number puts one point exactly at θ.
    path
        HDF5 file; each point is in it as soon as it is known. If the file exists and belongs to the same model
        (weights, configuration and code), text, directions, grid, metrics and loss, only the missing points are
        computed.
    metrics
        Name -> callable(model, batches) -> float, called at each point with the moved model.
    loss
        As for `sequence_losses`, for models of other kinds.
    version
        With `path`, for metrics or a loss whose code and data cannot be read (they hold an open file, say): a text
        that you change whenever they change, so that a file goes on with the same ones only.
    label
        What the surface shows, in words; by default what its directions move.
    progress
        Whether to show a bar.
    executor
        A `concurrent.futures.Executor` (process pool, dask's `Client.get_executor()`, mpi4py's): each worker gets
        the model once. Results are identical; the workers use as many torch threads as the caller has set. On a Dask
        cluster the points of a worker that dies are computed by the others.
    on_point
        Called in this thread with a `SurfacePoint` after each new point; the model is then still at that point.
    stop
        When this event is set the call returns early with what is known so far. So it does on Ctrl-C, with a warning.

    The points come from coarse to fine. The weights are moved in place and are the same bits afterwards, also after
    an exception or an interrupt. A point with a loss that is not finite is recorded as it is, except at θ.

    Raises
    ------
    ValueError, TypeError
        Before any work for bad arguments, weights that are not finite, or a file that belongs to another computation;
        later for a loss at θ that is not finite.
    RuntimeError
        If another run is writing the file, or a worker of the executor dies.

    >>> import torch
    >>> from gdrop_viz.perturbation import random_direction
    >>> model = nn.Linear(2, 1)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> batches = [{"input": torch.ones(4, 2)}]
    >>> surface = loss_surface(model, batches, random_direction(model), points=5, loss=square, progress=False)
    >>> surface.x, surface.loss.shape, surface.is_complete
    (array([-1. , -0.5,  0. ,  0.5,  1. ]), (5,), True)
    """
    directions = [directions] if isinstance(directions, Direction) else list(directions)
    label = label if label is not None else _label(directions)
    sweep = _Sweep(
        model, batches, {label: directions}, extent, points, metrics=metrics, loss=loss, version=version,
        progress=progress, executor=executor, on_point=on_point, stop=stop,
    )  # fmt: skip
    return sweep.computed({} if path is None else {label: Path(path)})[label]


def loss_surfaces(
    model: nn.Module,
    batches: Sequence[Batch],
    planes: Mapping[str, Direction | Sequence[Direction]],
    extent: Extent = 1.0,
    points: int | Sequence[int] = 21,
    *,
    folder: str | os.PathLike[str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    loss: Loss | None = None,
    version: str | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    on_point: Callable[[SurfacePoint], Any] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Surface]:
    """Evaluate several surfaces of one model in one go, on the same grid and text: name -> `Surface`.

    `planes` is name -> one or two directions. The surfaces grow side by side (`on_point` says which one in `label`);
    with `folder=` each is kept in its own HDF5 file there. All other parameters are those of `loss_surface`. With
    extent=None all share the widest of the proposed ones. Raises what `loss_surface` raises, and ValueError for names
    that would share one file.

    >>> import torch
    >>> from gdrop_viz.perturbation import random_direction
    >>> model = nn.Linear(2, 2)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> planes = {f"seed {seed}": random_direction(model, seed=seed) for seed in (0, 1)}
    >>> surfaces = loss_surfaces(model, [{"input": torch.ones(4, 2)}], planes, points=3, loss=square, progress=False)
    >>> list(surfaces)
    ['seed 0', 'seed 1']
    """
    lists = {name: [d] if isinstance(d, Direction) else list(d) for name, d in planes.items()}
    paths = {} if folder is None else {name: surface_path(folder, name) for name in planes}
    if len(set(paths.values())) < len(paths):
        raise ValueError("expected names that differ in more than punctuation, got two that would share one file")
    sweep = _Sweep(
        model, batches, lists, extent, points, metrics=metrics, loss=loss, version=version,
        progress=progress, executor=executor, on_point=on_point, stop=stop,
    )  # fmt: skip
    return sweep.computed(paths)


class _Sweep:
    """Surfaces of one model on one grid and text, that grow side by side."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        planes: Mapping[str, list[Direction]],
        extent: Extent,
        points: int | Sequence[int],
        *,
        metrics: Mapping[str, Metric] | None,
        loss: Loss | None,
        version: str | None,
        progress: bool,
        executor: Executor | None,
        on_point: Callable[[SurfacePoint], Any] | None,
        stop: threading.Event | None,
    ) -> None:
        self.model, self.planes, self.loss, self.version = model, planes, loss, version
        self.progress, self.executor, self.on_point, self.stop = progress, executor, on_point, stop
        self.metrics = dict(metrics or {})
        self.batches = checked(model, batches, planes, self.metrics, loss)
        if executor is not None:
            check_executor(executor)
        if extent is None:
            extent = max(proposed_extent(model, self.batches, directions, loss=loss) for directions in planes.values())
        self.axes = _axes(extent, points, len(next(iter(planes.values()))))
        self.n_sequences = sum(len(next(iter(batch.values()))) for batch in self.batches)
        self.surfaces = {
            label: GrowingSurface(self.axes, self.n_sequences, list(self.metrics), self._metadata(label, batches))
            for label in planes
        }

    def computed(self, paths: Mapping[str, Path]) -> dict[str, Surface]:
        """The surfaces, with the points that their files at `paths` (label -> file) have already."""
        with ExitStack() as stack:
            for path in paths.values():
                stack.enter_context(exclusive(path))
            if paths:
                with model_lock(self.model):
                    common = fingerprint(self.model, self.batches, self.axes, self.metrics, self.loss, self.version)
                for label, path in paths.items():
                    self.surfaces[label].attach(path, {**common, "directions": of_directions(self.planes[label])})
                    stack.callback(self.surfaces[label].close)
            done, total = self._fill()
        if done < total and not (self.stop is not None and self.stop.is_set()):
            warnings.warn(f"interrupted: {done} of {total} points are known, the others are NaN", stacklevel=3)
        return {label: surface.surface() for label, surface in self.surfaces.items()}

    def _fill(self) -> tuple[int, int]:
        """Compute what is missing; return how many points are known, and how many there are."""
        jobs = self._jobs()
        total = sum(surface.evaluated.size for surface in self.surfaces.values())
        done = total - len(jobs)
        logger.info("%d points to evaluate on %d surfaces", len(jobs), len(self.planes))
        with ExitStack() as stack:
            stopping = stack.enter_context(interruptible(self.stop))
            found = self._found(jobs, stopping)
            stack.callback(found.close)  # at once, not when the generator is collected: this restores the weights
            bar = stack.enter_context(
                progress_bar(total=total, initial=done, description="Loss surface", unit="point", show=self.progress)
            )
            for (label, index, coefficients), value in found:
                surface = self.surfaces[label]
                surface.put(index, value)
                done += 1
                bar.update()
                if self.on_point is not None:
                    loss, error = float(surface.loss[index]), float(surface.error[index])
                    self.on_point(SurfacePoint(label, index, coefficients, loss, error, done, total, surface.surface))
        return done, total

    def _jobs(self) -> list[Job]:
        """The points that are not known, in the order in which a picture sharpens; of all surfaces in turn."""
        jobs = []
        for index in coarse_to_fine([len(axis) for axis in self.axes]):
            coefficients = tuple(float(axis[i]) for axis, i in zip(self.axes, index, strict=True))
            for label, surface in self.surfaces.items():
                if not surface.evaluated[index]:
                    key = (label, index, coefficients)
                    jobs.append(Job(key, f"point {coefficients} of {label!r}", (label, coefficients)))
        return jobs

    def _found(self, jobs: list[Job], stopping: Callable[[], bool]) -> Found:
        arguments = (self.model, self.batches, self.planes, self.loss, self.metrics)
        if not jobs:
            return
        if self.executor is not None:
            with model_lock(self.model):
                payload = packed((evaluating_in_worker, arguments), "a model, batches, loss and metrics")
            yield from results(self.executor, payload, jobs, stopping=stopping)
            return
        waiting = deque(jobs)
        while waiting:
            with evaluating(*arguments) as evaluate:
                while waiting:
                    job = waiting.popleft()
                    label, coefficients = job.arguments
                    try:
                        value = evaluate(label, coefficients, stopping)
                    except Stopped:
                        return
                    yield job.key, value
                    if evaluate.waited_for:
                        break  # the model is itself again while another thread has it

    def _metadata(self, label: str, batches: Sequence[Batch]) -> dict[str, Any]:
        config = getattr(self.model, "config", None)
        directions = self.planes[label]
        kept = ("label", "norm", "seed", "normalize", "selection", "n_elements")
        name = getattr(config, "name_or_path", "") or type(self.model).__name__
        text = getattr(batches, "checksum", None)
        return {
            "label": label,
            # a path says nothing elsewhere
            "model": os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name,
            "vocabulary": getattr(config, "vocab_size", None),
            "directions": [{each: getattr(direction, each) for each in kept} for direction in directions],
            "inner_products": [[a.dot(b) for b in directions] for a in directions],
            "n_sequences": self.n_sequences,
            "text": text if isinstance(text, str) else digest(self.batches),
            "unit": loss_unit(self.batches[0], loss=self.loss, model=self.model),
        }


def _label(directions: Sequence[Any]) -> str:
    moved = dict.fromkeys(getattr(direction, "selection", "") or "all parameters" for direction in directions)
    return ", ".join(moved)


def _axes(extent: Any, points: Any, n_axes: int) -> list[np.ndarray]:
    extents: list[Any] = [extent] * n_axes if isinstance(extent, numbers.Real) else list(extent)
    counts: list[Any] = [points] * n_axes if isinstance(points, numbers.Integral) else list(points)
    if len(extents) != n_axes or len(counts) != n_axes:
        raise ValueError(
            f"expected extent and points as one number, or one entry for each of {n_axes} directions, "
            f"got {extent!r} and {points!r}"
        )
    return [coordinates(one, count) for one, count in zip(extents, counts, strict=True)]
