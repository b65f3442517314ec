"""Evaluation of points: the weights are moved there and back, bit for bit, and the losses are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import finite_losses, finite_weights
from gdrop_viz.base.locks import Hold, model_lock
from gdrop_viz.base.state import preserved_modes, preserved_rng
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.devices import check_weights_present, on_device_of
from gdrop_viz.models.losses import Loss, checked_batches, sequence_losses
from gdrop_viz.perturbation.directions import Direction, working_dtype

Batch = Mapping[str, Tensor]
Planes = Mapping[str, Sequence[Direction]]
Metric = Callable[[nn.Module, Sequence[Batch]], float]


class Stopped(Exception):
    """It was asked to stop in the middle of a point; the point is not recorded."""


@dataclass(frozen=True)
class PointValue:
    """What was found at one point: `losses` (N,) float64, one per sequence, and the value of each metric."""

    losses: np.ndarray
    metrics: Mapping[str, float]


class MovedWeights:
    """Put a model's weights at points of a plane, in place, and give back the very same bits with `restore`.

    Copies of the tensors that any of the planes moves are kept; every point starts from these copies, so that its
    weights do not depend on the points before it.
    """

    def __init__(self, model: nn.Module, planes: Planes) -> None:
        self._planes = planes
        moved = {name for directions in planes.values() for direction in directions for name in direction.vectors}
        self._parameters = {
            name: parameter for name, parameter in undistributed(model).named_parameters() if name in moved
        }
        self._originals = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._away: set[str] = set()

    @torch.no_grad()
    def move(self, plane: str, coefficients: Sequence[float]) -> None:
        """Set θ + Σ cᵢ dᵢ; where all coefficients are 0, the untouched weights."""
        torch.clear_autocast_cache()  # inside autocast: weights that were cast at the last point
        steps = [(c, d.vectors) for c, d in zip(coefficients, self._planes[plane], strict=True) if c != 0]
        names = {name for _, vectors in steps for name in vectors}
        self._restore(self._away - names)
        self._away |= names
        for name in names:
            parameter, original = self._parameters[name], self._originals[name]
            dtype = working_dtype(parameter)
            terms = [(c, vectors[name]) for c, vectors in steps if name in vectors]
            if parameter.dtype != dtype:  # half precision: add in float32, round once
                total = original.to(dtype)
                for c, vector in terms:
                    total.add_(vector, alpha=c)
                parameter.copy_(total)
                continue
            source = original
            for c, vector in terms:
                torch.add(source, vector, alpha=c, out=parameter.data)
                source = parameter

    def restore(self) -> None:
        """Put all weights back."""
        if self._away:
            torch.clear_autocast_cache()
        self._restore(self._away)

    @torch.no_grad()
    def _restore(self, names: set[str]) -> None:
        for name in names:
            self._parameters[name].copy_(self._originals[name])
        self._away = self._away - names


@dataclass(frozen=True)
class PointEvaluator:
    """Evaluate loss and metrics at points of one or more planes; made by `evaluating`, which restores the model."""

    model: nn.Module
    batches: Sequence[Batch]
    loss: Loss | None
    metrics: Mapping[str, Metric]
    weights: MovedWeights
    hold: Hold

    def __call__(
        self, plane: str, coefficients: Sequence[float], stopping: Callable[[], bool] = lambda: False
    ) -> PointValue:
        """Return losses and metrics at a point; `stopping` is asked before each batch, and ends it with `Stopped`.

        Raises ValueError if a loss at the model's own weights is not finite: nothing can be held against it.
        """
        with preserved_rng():
            self.weights.move(plane, coefficients)
            losses = []
            with torch.no_grad():
                for number, batch in enumerate(self.batches):
                    if stopping():
                        raise Stopped
                    found = sequence_losses(self.model, batch, loss=self.loss).double()
                    if not any(coefficients):
                        finite_losses(found, f"batch {number}")
                    losses.append(found)
            metrics = {name: float(metric(self.model, self.batches)) for name, metric in self.metrics.items()}
        return PointValue(torch.cat(losses).cpu().numpy(), metrics)

    @property
    def waited_for(self) -> bool:
        """Whether another thread waits for the model: leave `evaluating` for a moment, and enter it again."""
        return self.hold.waited_for


@contextmanager
def evaluating(
    model: nn.Module,
    batches: Sequence[Batch],
    planes: Planes,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Iterator[PointEvaluator]:
    """A context with a `PointEvaluator`, inside which the weights may be moved; afterwards all is as it was."""
    # the grad mode too: an interrupt may strike between the end of a no_grad block and its exit
    with model_lock(model) as hold, torch.set_grad_enabled(torch.is_grad_enabled()), preserved_modes(model):
        batches = [on_device_of(model, batch) for batch in batches]  # once, not at every point
        if loss is None:  # what is to be known of the model is found at the trained weights, also in a worker
            with torch.no_grad(), preserved_rng():
                sequence_losses(model, {name: value[:1] for name, value in batches[0].items()})
        weights = MovedWeights(model, planes)
        try:
            try:
                yield PointEvaluator(model, batches, loss, metrics or {}, weights, hold)
            finally:
                weights.restore()
        finally:
            weights.restore()  # does nothing, unless an interrupt has cut the first one short


def evaluating_in_worker(*arguments: Any) -> Callable[[str, Sequence[float]], PointValue]:
    """What `evaluating` gives for these arguments, open as long as it lives: a worker's copy is nobody else's."""
    context = evaluating(*arguments)
    evaluate = context.__enter__()

    def point(plane: str, coefficients: Sequence[float], _: Any = context) -> PointValue:
        return evaluate(plane, coefficients)

    return point


def checked(
    model: nn.Module, batches: Sequence[Batch], planes: Planes, metrics: Mapping[str, Any], loss: Loss | None
) -> list[Batch]:
    """Return the batches as a list, or raise what is wrong with any argument before anything is computed."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass lm.model")
    if not planes:
        raise ValueError("expected at least one surface to compute, got none")
    check_weights_present(model)
    finite_weights(model.named_parameters())
    parameters = {name: parameter.shape for name, parameter in undistributed(model).named_parameters()}
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
    kept = checked_batches(model, batches, loss=loss)
    return [{name: value for name, value in batch.items() if isinstance(value, Tensor)} for batch in kept]
