"""The same points in other tools: each that is installed, on the same model, text and directions.

    pip install landscaper==1.3.1 nngeom==0.2.0 loss-landscape-3d==0.1.3 loss-landscapes==3.0.6   (in a venv of its own)

All get the plain pass as their loss, the head at predicted positions only, so that only their own work differs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.perturbation import Direction

PlainPass = Callable[[nn.Module, Any], float]
Contestant = Callable[[], Any]


def installed_peers(
    model: nn.Module, batches: Sequence[Any], plane: Sequence[Direction], points: int, plain_pass: PlainPass
) -> dict[str, Contestant]:
    """Name -> call that evaluates points x points of the plane, for the tools that are installed.

    Each gets a copy of the model: some of them leave it with `requires_grad` off.
    """
    makers = {"landscaper": _landscaper, "nngeom": _nngeom, "loss-landscape-3d": _3d, "loss-landscapes": _landscapes}
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make(copy.deepcopy(model), batches, plane, points, plain_pass)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def _landscaper(model: nn.Module, batches: Any, plane: Any, points: int, plain_pass: PlainPass) -> Contestant:
    from landscaper.compute import compute_loss_landscape

    vectors = [_whole(model, direction) for direction in plane]
    return lambda: compute_loss_landscape(
        model, batches, vectors, plain_pass, steps=points, distance=0.5, dim=2, device="cpu"
    )


def _nngeom(model: nn.Module, batches: Any, plane: Any, points: int, plain_pass: PlainPass) -> Contestant:
    from nngeom.models import Model
    from nngeom.surfaces import scalar_field_2d

    flat = [
        np.concatenate([vector.numpy().astype(np.float64).ravel() for vector in _whole(model, direction)])
        for direction in plane
    ]
    wrapped = Model(model, loss_fn=lambda module, data: torch.tensor(plain_pass(module, data)))
    return lambda: scalar_field_2d(wrapped, lambda one: one.loss(batches), *flat, span=1.0, steps=points)


def _3d(model: nn.Module, batches: Any, plane: Any, points: int, plain_pass: PlainPass) -> Contestant:
    from loss_landscape_3d.calculator import LossLandscapeCalculator

    class OneBatch(nn.Module):
        """Its input is the number of a batch, its output that batch's loss."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, numbers: Tensor) -> Tensor:
            return torch.tensor(plain_pass(self.model, [batches[int(number)] for number in numbers]))

    module = OneBatch()
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    vectors = [{f"model.{name}": vector for name, vector in direction.vectors.items()} for direction in plane]
    data = [(torch.tensor([i]), torch.zeros(1)) for i in range(len(batches))]
    calculator = LossLandscapeCalculator(module, data, lambda losses, targets: losses)
    grid = np.linspace(-1, 1, points)
    return lambda: calculator.calculate(grid, grid, *vectors, state)


def _landscapes(model: nn.Module, batches: Any, plane: Any, points: int, plain_pass: PlainPass) -> Contestant:
    import loss_landscapes
    from loss_landscapes.metrics import Metric

    class Loss(Metric):
        def __call__(self, wrapped: Any) -> float:
            return plain_pass(model, batches)

    # it draws its own directions; its filter normalisation divides by zero on the padding row
    return lambda: loss_landscapes.random_plane(model, Loss(), distance=1, steps=points, normalization="layer")


def _whole(model: nn.Module, direction: Direction) -> list[Tensor]:
    return [direction.vectors.get(name, torch.zeros_like(p)) for name, p in model.named_parameters()]
