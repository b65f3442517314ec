"""How is a surface computed? Point by point, coarse to fine, each kept at once, here or by an executor's workers."""

from __future__ import annotations

import hashlib
import math
import numbers
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz._progress import progress_bar
from gdrop_viz.landscape import surface_file
from gdrop_viz.landscape.directions import Direction
from gdrop_viz.landscape.evaluation import (
    Batch,
    Metric,
    Planes,
    PointEvaluator,
    PointValue,
    Stopped,
    evaluate_in_worker,
    packed,
)
from gdrop_viz.landscape.grid import coarse_to_fine, coordinates
from gdrop_viz.landscape.surface import Surface, surface_path
from gdrop_viz.objectives import Loss

_PROBE_SEQUENCES = 32
_LARGEST_EXTENT = 64.0


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
        the model once. Results are identical; the workers use as many torch threads as the caller has set.
    on_point
        Called in this thread with a `SurfacePoint` after each new point; the model is then still at that point.
    stop
        When this event is set the call returns early with what is known so far.

    The points come from coarse to fine. The weights are moved in place and are the same bits afterwards, also after
    an exception or an interrupt. A point with a loss that is not finite is recorded as it is.

    Raises ValueError or TypeError before any work for bad arguments or a file that belongs to another computation.

    >>> from gdrop_viz.landscape import random_direction
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
    metrics: Mapping[str, Metric] | None = None,
    loss: Loss | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    on_point: Callable[[SurfacePoint], Any] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Surface]:
    """Evaluate several surfaces of one model in one go, on the same grid and text: name -> `Surface`.

    `planes` is name -> one or two directions. The surfaces grow side by side (`on_point` says which one in `label`);
    with `folder=` each is kept in its own HDF5
    file there. Everything else is as in `loss_surface`. With extent=None all share the widest of the proposed ones.

    >>> from gdrop_viz.landscape import random_direction, random_k
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
    return _computed(
        model, batches, planes, extent, points, paths,
        metrics=metrics, loss=loss, progress=progress, executor=executor, on_point=on_point, stop=stop,
    )  # fmt: skip


def proposed_extent(
    model: nn.Module,
    batches: Sequence[Batch],
    directions: Direction | Sequence[Direction],
    *,
    rise: float = 1.0,
    loss: Loss | None = None,
) -> float:
    """Return an extent that shows basin and walls: twice the radius at which the loss has risen by `rise` nats.

    The radius is bracketed by doubling or halving and then bisected twice, on the mean over ± each direction and
    about the first 32 sequences; it is rounded to two digits. A surface that never rises so far gets 64.

    >>> from gdrop_viz.landscape import random_direction
    >>> model = nn.Linear(2, 1)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> proposed_extent(model, [{"input": torch.ones(4, 2)}], random_direction(model, norm=1.0), loss=square) > 0
    True
    """
    directions = [directions] if isinstance(directions, Direction) else list(directions)
    batches = _checked(model, batches, {"": directions}, metrics={})
    few, n_sequences = [], 0
    for batch in batches:
        few.append(batch)
        n_sequences += len(next(iter(batch.values())))
        if n_sequences >= _PROBE_SEQUENCES:
            break
    with PointEvaluator(model, few, {"": directions}, loss, {}) as evaluate:

        def mean_rise(radius: float) -> float:
            ends = [
                evaluate("", [sign * radius if i == axis else 0.0 for i in range(len(directions))]).losses.mean()
                for axis in range(len(directions))
                for sign in (-1, 1)
            ]
            return float(np.mean(ends)) - centre

        centre = float(evaluate("", [0.0] * len(directions)).losses.mean())
        high = 1.0
        while not _risen(mean_rise(high), rise):
            high *= 2
            if high > _LARGEST_EXTENT / 2:
                return _LARGEST_EXTENT
        low = high / 2
        while high > 2.0**-16 and _risen(mean_rise(low), rise):
            low, high = low / 2, low
        for _ in range(2):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if _risen(mean_rise(middle), rise) else (middle, high)
    return float(f"{2 * high:.2g}")


def _risen(value: float, amount: float) -> bool:
    return not value < amount  # a loss that is no longer finite has risen


class _Growing:
    """A surface that is being filled, in memory and (if asked) in its file."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray | None, n_sequences: int, metrics: Sequence[str], metadata: Any
    ) -> None:
        shape = (len(x),) if y is None else (len(x), len(y))
        self.x, self.y, self.metadata = x, y, metadata
        self.loss, self.error = np.full(shape, np.nan), np.full(shape, np.nan)
        self.sequences = np.full((*shape, n_sequences), np.nan)
        self.metrics = {name: np.full(shape, np.nan) for name in metrics}
        self.evaluated = np.zeros(shape, dtype=bool)
        self._writer: surface_file.PointWriter | None = None

    def attach(self, path: Path, fingerprint: dict[str, Any]) -> None:
        """Keep the points in the file at `path`; take what is there already."""
        if path.exists():
            _check_same(path, surface_file.read_fingerprint(path), fingerprint)
            known = surface_file.read(path)
            self.loss, self.error, self.evaluated = known.loss, known.standard_error, known.evaluated
            self.sequences, self.metrics = known.sequence_losses, dict(known.metrics)
        else:
            surface_file.write(self.surface(), path, fingerprint=fingerprint)
        self._writer = surface_file.PointWriter(path, len(self.x))

    def put(self, index: tuple[int, ...], value: PointValue) -> None:
        """Record one point; on disk first."""
        with np.errstate(all="ignore"):
            mean = float(value.losses.mean())
            n = len(value.losses)
            error = float(value.losses.std(ddof=1) / math.sqrt(n)) if n > 1 else float("nan")
        if self._writer is not None:
            self._writer.put(index, value.losses, mean, error, value.metrics)
        self.loss[index], self.error[index], self.sequences[index] = mean, error, value.losses
        for name, number in value.metrics.items():
            self.metrics[name][index] = number
        self.evaluated[index] = True

    def close(self) -> None:
        if self._writer is not None:
            self._writer.sync()

    def surface(self) -> Surface:
        metrics = {name: values.copy() for name, values in self.metrics.items()}
        arrays = (self.loss.copy(), self.error.copy(), self.sequences.copy())
        return Surface(self.x, self.y, *arrays, metrics, self.evaluated.copy(), self.metadata)


def _computed(
    model: nn.Module,
    batches: Sequence[Batch],
    planes: dict[str, list[Direction]],
    extent: Any,
    points: Any,
    paths: Mapping[str, Path | None],
    *,
    metrics: Mapping[str, Metric] | None,
    loss: Loss | None,
    progress: bool,
    executor: Executor | None,
    on_point: Callable[[SurfacePoint], Any] | None,
    stop: threading.Event | None,
) -> dict[str, Surface]:
    metrics = dict(metrics or {})
    batches_kept = _checked(model, batches, planes, metrics)
    if executor is not None and not isinstance(executor, Executor) and not hasattr(executor, "submit"):
        raise TypeError(f"expected a concurrent.futures.Executor, got {type(executor).__name__}")
    n_axes = len(next(iter(planes.values())))
    if extent is None:
        extent = max(proposed_extent(model, batches_kept, directions, loss=loss) for directions in planes.values())
    axes = _axes(extent, points, n_axes)
    x, y = axes[0], axes[1] if n_axes == 2 else None
    n_sequences = sum(len(next(iter(batch.values()))) for batch in batches_kept)
    text = _text_checksum(batches, batches_kept)
    growing: dict[str, _Growing] = {}
    weights = _model_checksum(model) if any(paths.values()) else None
    for label, directions in planes.items():
        metadata = _metadata(model, label, directions, n_sequences, text)
        growing[label] = _Growing(x, y, n_sequences, list(metrics), metadata)
        if (path := paths[label]) is not None:
            fingerprint = {
                "model": weights,
                "text": text,
                "directions": [_tensors_checksum(direction.vectors) for direction in directions],
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
    arguments = (model, batches_kept, planes, loss, metrics)
    source = _here(arguments, jobs, stop) if executor is None else _by_workers(executor, arguments, jobs, stop)
    total = len(order) * len(planes)
    done = total - len(jobs)
    try:
        with progress_bar(total=total, initial=done, description="Loss surface", unit="point", show=progress) as bar:
            for (label, index, coefficients), value in source:
                growing[label].put(index, value)
                done += 1
                bar.update()
                if on_point is not None:
                    here = growing[label]
                    found = (float(here.loss[index]), float(here.error[index]))
                    on_point(SurfacePoint(label, index, coefficients, *found, done, total, here.surface))
    finally:
        source.close()  # at once, not when the generator is collected: this restores the weights
        for surface in growing.values():
            surface.close()
    return {label: surface.surface() for label, surface in growing.items()}


Job = tuple[str, tuple[int, ...], tuple[float, ...]]


def _here(arguments: Any, jobs: Sequence[Job], stop: threading.Event | None) -> Iterator[tuple[Job, PointValue]]:
    if not jobs:
        return
    with PointEvaluator(*arguments) as evaluate:
        for job in jobs:
            try:
                value = evaluate(job[0], job[2], stop=stop)
            except Stopped:
                return
            yield job, value


def _by_workers(
    executor: Executor, arguments: Any, jobs: Sequence[Job], stop: threading.Event | None
) -> Iterator[tuple[Job, PointValue]]:
    if not jobs:
        return
    payload, token, threads = packed(*arguments), uuid.uuid4().hex, torch.get_num_threads()
    waiting = iter(jobs)
    running: dict[Future[PointValue | None], Job] = {}

    def submit(job: Job, data: bytes | None) -> None:
        running[executor.submit(evaluate_in_worker, token, data, job[0], job[2], threads)] = job

    # few at a time: a worker asks for the model by answering None, and only such a point is sent with it
    width = (getattr(executor, "_max_workers", None) or os.cpu_count() or 1) + 1
    try:
        for job in [next(waiting, None) for _ in range(width)]:
            if job is not None:
                submit(job, None)
        while running:
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            if stop is not None and stop.is_set():
                return
            for future in finished:
                job = running.pop(future)
                value = future.result()
                if value is None:
                    submit(job, payload)
                    continue
                if (following := next(waiting, None)) is not None:
                    submit(following, None)
                yield job, value
    except (BrokenProcessPool, CancelledError) as error:
        raise RuntimeError(
            f"expected the executor's workers to live until the last point, got {type(error).__name__}; the points "
            'done are kept. A script that starts processes needs `if __name__ == "__main__":` around its main part'
        ) from error
    finally:
        for future in running:
            future.cancel()


def _checked(model: nn.Module, batches: Sequence[Batch], planes: Planes, metrics: Mapping[str, Any]) -> Sequence[Batch]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass lm.model")
    if not planes:
        raise ValueError("expected at least one surface to compute, got none")
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    for directions in planes.values():
        wrong = next((d for d in directions if not isinstance(d, Direction)), None)
        if wrong is not None:
            raise TypeError(
                f"expected each direction to be a Direction, got {type(wrong).__name__}; see random_direction"
            )
        if len(directions) not in (1, 2):
            raise ValueError(f"expected one direction (a line) or two (a plane), got {len(directions)}")
        for direction in directions:
            for name, vector in direction.vectors.items():
                if parameters.get(name) != vector.shape:
                    came = tuple(parameters[name]) if name in parameters else "no such parameter"
                    raise ValueError(
                        f"expected a model with {name!r} of shape {tuple(vector.shape)} as in {direction.label!r}, got "
                        f"{came}; make the directions from this model"
                    )
    if len({len(directions) for directions in planes.values()}) > 1:
        raise ValueError("expected surfaces of one kind, got lines and planes; compute them in two calls")
    for name, metric in metrics.items():
        if not callable(metric):
            raise TypeError(
                f"expected metrics[{name!r}] to be callable(model, batches) -> float, got {type(metric).__name__}"
            )
        if not isinstance(name, str) or "/" in name or name in ("x", "y", "loss", "standard_error", "evaluated"):
            raise ValueError(f"expected names of metrics that are free and without '/', got {name!r}; choose another")
    kept = [batches] if isinstance(batches, Mapping) else list(batches)
    if not kept or not all(isinstance(batch, Mapping) for batch in kept):
        came = f"a sequence with {type(kept[0]).__name__}" if kept else "none"
        raise ValueError(f"expected at least one batch (a dict of tensors), got {came}; see pretraining_batches")
    return [{name: value for name, value in batch.items() if isinstance(value, Tensor)} for batch in kept]


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
    return {
        "label": label,
        "model": getattr(config, "name_or_path", "") or type(model).__name__,
        "vocabulary": getattr(config, "vocab_size", None),
        "directions": facts,
        "inner_products": [[a.dot(b) for b in directions] for a in directions],
        "n_sequences": n_sequences,
        "text": text,
    }


def _check_same(path: Path, there: dict[str, Any] | None, now: dict[str, Any]) -> None:
    advice = "give another path, or delete the file to compute the surface anew"
    if there is None:
        raise ValueError(
            f"expected {os.fspath(path)!r} to be a surface of this computation, got a file from elsewhere; {advice}"
        )
    changed = [name for name in now if there.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"expected {os.fspath(path)!r} to continue the same computation, got a file with other "
            f"{', '.join(changed)}; {advice}"
        )


def _text_checksum(batches: Any, kept: Sequence[Batch]) -> str:
    if isinstance(checksum := getattr(batches, "checksum", None), str):
        return checksum
    return hashlib.sha256("".join(map(_tensors_checksum, kept)).encode()).hexdigest()


def _model_checksum(model: nn.Module) -> str:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return hashlib.sha256(f"{type(model).__qualname__} {_tensors_checksum(state)}".encode()).hexdigest()


def _tensors_checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
