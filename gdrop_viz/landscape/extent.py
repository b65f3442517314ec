"""Extent of a surface that shows basin and walls."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
from torch import nn

from gdrop_viz.base.checks import number
from gdrop_viz.landscape.evaluation import Batch, Stopped, checked, evaluating
from gdrop_viz.models.losses import Loss
from gdrop_viz.perturbation.directions import Direction

_PROBE_SEQUENCES = 32
_LARGEST_EXTENT = 64.0


def proposed_extent(
    model: nn.Module,
    batches: Sequence[Batch],
    directions: Direction | Sequence[Direction],
    *,
    rise: float = 1.0,
    loss: Loss | None = None,
    stop: threading.Event | None = None,
) -> float:
    """Return an extent that shows basin and walls: twice the radius at which the loss has risen by `rise` nats.

    The radius is bracketed by doubling or halving and then bisected twice, on the mean over ± each direction and
    about the first 32 sequences; it is rounded to two digits. A surface that never rises so far gets 64.

    Raises
    ------
    ValueError
        For a rise that is not above 0, and as `loss_surface` does.
    RuntimeError
        As soon as `stop` is set: nothing can be said of the radius then.

    >>> import torch
    >>> from gdrop_viz.perturbation import random_direction
    >>> model = nn.Linear(2, 1)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> proposed_extent(model, [{"input": torch.ones(4, 2)}], random_direction(model, norm=1.0), loss=square) > 0
    True
    """
    number(rise, "rise", above=0)
    directions = [directions] if isinstance(directions, Direction) else list(directions)
    batches = checked(model, batches, {"": directions}, {}, loss)
    few, n_sequences = [], 0
    for batch in batches:
        few.append(batch)
        n_sequences += len(next(iter(batch.values())))
        if n_sequences >= _PROBE_SEQUENCES:
            break
    with evaluating(model, few, {"": directions}, loss) as evaluate:

        def mean_loss(coefficients: list[float]) -> float:
            try:
                return float(evaluate("", coefficients, lambda: stop is not None and stop.is_set()).losses.mean())
            except Stopped:
                raise RuntimeError("the search for the radius was stopped; start it again") from None

        def mean_rise(radius: float) -> float:
            ends = [
                mean_loss([sign * radius if i == axis else 0.0 for i in range(len(directions))])
                for axis in range(len(directions))
                for sign in (-1, 1)
            ]
            return float(np.mean(ends)) - centre

        centre = mean_loss([0.0] * len(directions))
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
