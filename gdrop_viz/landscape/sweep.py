"""How is a surface computed? Point by point, coarse to fine, each kept at once, here or by an executor's workers."""

from __future__ import annotations

import logging
import numbers
import os
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gdrop_viz.base.files import exclusive
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.parallel import held_by_workers, n_workers
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.landscape.evaluation import (
    Batch,
    Metric,
    PointValue,
    Stopped,
    checked,
    evaluate_in_worker,
    evaluating,
    packed,
)
from gdrop_viz.landscape.extent import proposed_extent
from gdrop_viz.landscape.fingerprint import tensors_checksum, text_checksum
from gdrop_viz.landscape.grid import coarse_to_fine, coordinates
from gdrop_viz.landscape.growing import GrowingSurface
from gdrop_viz.landscape.surface import Surface, surface_path
from gdrop_viz.models.digest import model_digest
from gdrop_viz.models.losses import Loss, loss_unit
from gdrop_viz.perturbation.directions import Direction

logger = logging.getLogger(__name__)

Job = tuple[str, tuple[int, ...], tuple[float, ...]]  # plane, index, coefficients


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
    extent: float | Sequence[float | tuple[float, float]] | None = 1.0,
    points: int | Sequence[int] = 21,
    *,
    path: str | os.PathLike[str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    loss: Loss | None = None,
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
        HDF5 file; each point is in it as soon as it is known. If the file exists and belongs to the same model,
        text, directions and grid, only the missing points are computed.
    metrics
        Name -> callable(model, batches) -> float, called at each point with the moved model.
    loss
        As for `sequence_losses`, for models of other kinds.
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

    Raises ValueError or TypeError before any work for bad arguments, weights that are not finite, or a file that
    belongs to another computation; ValueError if a loss at θ is not finite; RuntimeError if another run is writing
    the file.

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
    surfaces = _computed(
        model, batches, {label: directions}, extent, points, {label: None if path is None else Path(path)},
        metrics=metrics, loss=loss, progress=progress, executor=executor, on_point=on_point, stop=stop,
    )  # fmt: skip
    return surfaces[label]


def loss_surfaces(
    model: nn.Module,
    batches: Sequence[Batch],
    planes: Mapping[str, Direction | Sequence[Direction]],
    extent: float | Sequence[float | tuple[float, float]] | None = 1.0,
    points: int | Sequence[int] = 21,
    *,
    folder: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> dict[str, Surface]:
    """Evaluate several surfaces of one model in one go, on the same grid and text: name -> `Surface`.

    `planes` is name -> one or two directions. The surfaces grow side by side (`on_point` says which one in `label`);
    with `folder=` each is kept in its own HDF5 file there. `settings` are those of `loss_surface`: metrics, loss,
    progress, executor, on_point, stop. With extent=None all share the widest of the proposed ones.

    >>> from gdrop_viz.perturbation import random_direction, random_k
    >>> model = nn.Linear(2, 2)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> planes = {f"seed {seed}": random_direction(model, seed=seed) for seed in (0, 1)}
    >>> surfaces = loss_surfaces(model, [{"input": torch.ones(4, 2)}], planes, points=3, loss=square, progress=False)
    >>> list(surfaces)
    ['seed 0', 'seed 1']
    """
    planes = {name: [d] if isinstance(d, Direction) else list(d) for name, d in planes.items()}
    paths = {name: None if folder is None else surface_path(folder, name) for name in planes}
    if len(set(filter(None, paths.values()))) < len(paths) and folder is not None:
        raise ValueError("expected names that differ in more than punctuation, got two that would share one file")
    return _computed(model, batches, planes, extent, points, paths, **settings)


def _computed(
    model: nn.Module,
    batches: Sequence[Batch],
    planes: dict[str, list[Direction]],
    extent: Any,
    points: Any,
    paths: Mapping[str, Path | None],
    *,
    metrics: Mapping[str, Metric] | None = None,
    loss: Loss | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    on_point: Callable[[SurfacePoint], Any] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Surface]:
    metrics = dict(metrics or {})
    batches_kept = checked(model, batches, planes, metrics)
    if executor is not None and not isinstance(executor, Executor) and not hasattr(executor, "submit"):
        raise TypeError(f"expected a concurrent.futures.Executor, got {type(executor).__name__}")
    n_axes = len(next(iter(planes.values())))
    if extent is None:
        extent = max(proposed_extent(model, batches_kept, directions, loss=loss) for directions in planes.values())
    axes = _axes(extent, points, n_axes)
    n_sequences = sum(len(next(iter(batch.values()))) for batch in batches_kept)
    text = text_checksum(batches, batches_kept)
    with ExitStack() as held:
        for path in filter(None, paths.values()):
            held.enter_context(exclusive(path))
        return _filled(
            model, batches_kept, planes, axes, paths, text, n_sequences,
            metrics=metrics, loss=loss, progress=progress, executor=executor, on_point=on_point, stop=stop,
        )  # fmt: skip


def _filled(
    model: nn.Module,
    batches_kept: list[Batch],
    planes: dict[str, list[Direction]],
    axes: list[np.ndarray],
    paths: Mapping[str, Path | None],
    text: str,
    n_sequences: int,
    *,
    metrics: dict[str, Metric],
    loss: Loss | None,
    progress: bool,
    executor: Executor | None,
    on_point: Callable[[SurfacePoint], Any] | None,
    stop: threading.Event | None,
) -> dict[str, Surface]:
    """The surfaces on the grid `axes`, whatever their files hold already taken as it is."""
    x, y = axes[0], axes[1] if len(axes) == 2 else None
    growing: dict[str, GrowingSurface] = {}
    weights = model_digest(model) if any(paths.values()) else None
    for label, directions in planes.items():
        metadata = _metadata(model, label, directions, n_sequences, text)
        metadata["unit"] = loss_unit(batches_kept[0], loss=loss)
        growing[label] = GrowingSurface(x, y, n_sequences, list(metrics), metadata)
        if (path := paths[label]) is not None:
            fingerprint = {
                "model": weights,
                "text": text,
                "directions": [tensors_checksum(direction.vectors) for direction in directions],
                "grid": [axis.tolist() for axis in axes],
                "metrics": sorted(metrics),
                "loss": None if loss is None else getattr(loss, "__qualname__", type(loss).__qualname__),
            }
            growing[label].attach(path, fingerprint)
    order = coarse_to_fine([len(axis) for axis in axes])
    jobs = [
        (label, index, tuple(float(axis[i]) for axis, i in zip(axes, index, strict=True)))
        for index in order
        for label in planes
        if not growing[label].evaluated[index]
    ]
    logger.info("%d points to evaluate on %d surfaces", len(jobs), len(planes))
    arguments = (model, batches_kept, planes, loss, metrics)
    total = len(order) * len(planes)
    done = total - len(jobs)
    with ExitStack() as stack:
        stopping = stack.enter_context(interruptible(stop))
        for surface in growing.values():
            stack.callback(surface.close)
        source = (
            _here(arguments, jobs, stopping) if executor is None else _by_workers(executor, arguments, jobs, stopping)
        )
        stack.callback(source.close)  # at once, not when the generator is collected: this restores the weights
        bar = stack.enter_context(
            progress_bar(total=total, initial=done, description="Loss surface", unit="point", show=progress)
        )
        for (label, index, coefficients), value in source:
            growing[label].put(index, value)
            done += 1
            bar.update()
            if on_point is not None:
                here = growing[label]
                found = (float(here.loss[index]), float(here.error[index]))
                on_point(SurfacePoint(label, index, coefficients, *found, done, total, here.surface))
    if done < total and not (stop is not None and stop.is_set()):
        warnings.warn(f"interrupted: {done} of {total} points are known, the others are NaN", stacklevel=3)
    return {label: surface.surface() for label, surface in growing.items()}


def _here(arguments: Any, jobs: Sequence[Job], stopping: Callable[[], bool]) -> Iterator[tuple[Job, PointValue]]:
    if not jobs:
        return
    with evaluating(*arguments) as evaluate:
        for job in jobs:
            try:
                value = evaluate(job[0], job[2], stopping)
            except Stopped:
                return
            yield job, value


def _by_workers(
    executor: Executor, arguments: Any, jobs: Sequence[Job], stopping: Callable[[], bool]
) -> Iterator[tuple[Job, PointValue]]:
    if not jobs:
        return
    payload, token, threads = packed(*arguments), uuid.uuid4().hex, torch.get_num_threads()
    held = held_by_workers(executor, payload)
    waiting = iter(jobs)
    running: dict[Future[PointValue | None], Job] = {}

    def submit(job: Job, data: bytes | None) -> None:
        running[executor.submit(evaluate_in_worker, token, data, job[0], job[2], threads)] = job

    # few at a time: a worker asks for the model by answering None, and only such a point is sent with it
    try:
        for job in [next(waiting, None) for _ in range(n_workers(executor) + 1)]:
            if job is not None:
                submit(job, held)
        while running:
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            if stopping():
                return
            for future in finished:
                job = running.pop(future)
                value = future.result()
                if value is None:
                    submit(job, payload)
                    continue
                if (following := next(waiting, None)) is not None:
                    submit(following, held)
                yield job, value
    except (BrokenProcessPool, CancelledError) as error:
        raise RuntimeError(
            f"expected the executor's workers to live until the last point, got {type(error).__name__}; the points "
            'done are kept. A script that starts processes needs `if __name__ == "__main__":` around its main part'
        ) from error
    finally:
        for future in running:
            future.cancel()


def _label(directions: Sequence[Any]) -> str:
    moved = dict.fromkeys(getattr(direction, "selection", "") or "all parameters" for direction in directions)
    return ", ".join(moved)


def _axes(extent: Any, points: Any, n_axes: int) -> list[np.ndarray]:
    extents = [extent] * n_axes if isinstance(extent, numbers.Real) else list(extent)
    counts = [points] * n_axes if isinstance(points, numbers.Integral) else list(points)
    if len(extents) != n_axes or len(counts) != n_axes:
        raise ValueError(
            f"expected extent and points as one number, or one entry for each of {n_axes} directions, "
            f"got {extent!r} and {points!r}"
        )
    return [coordinates(one, count) for one, count in zip(extents, counts, strict=True)]


def _metadata(
    model: nn.Module, label: str, directions: Sequence[Direction], n_sequences: int, text: str
) -> dict[str, Any]:
    config = getattr(model, "config", None)
    kept = ("label", "norm", "seed", "normalize", "selection", "n_elements")
    facts = [{name: getattr(direction, name) for name in kept} for direction in directions]
    name = getattr(config, "name_or_path", "") or type(model).__name__
    return {
        "label": label,
        "model": os.path.basename(os.path.normpath(name))
        if os.path.isdir(name)
        else name,  # a path says nothing elsewhere
        "vocabulary": getattr(config, "vocab_size", None),
        "directions": facts,
        "inner_products": [[a.dot(b) for b in directions] for a in directions],
        "n_sequences": n_sequences,
        "text": text,
    }
