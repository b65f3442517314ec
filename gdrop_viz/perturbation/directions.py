"""Directions in weight space: normalised Gaussian draws, the gradient, the way to another checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import finite_losses, instance, module
from gdrop_viz.base.state import preserved_modes, preserved_requires_grad
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.devices import check_weights_present
from gdrop_viz.models.differentiation import (
    check_known,
    check_weights,
    differentiable,
    gradients,
    own_arithmetic,
    recordable,
    trainable,
)
from gdrop_viz.models.losses import Loss, checked_batches, sequence_losses
from gdrop_viz.perturbation.checkpoints import weights_of
from gdrop_viz.perturbation.direction import Direction
from gdrop_viz.perturbation.filters import normalized
from gdrop_viz.perturbation.masks import named_generator
from gdrop_viz.perturbation.selection import Selection


def random_direction(
    model: nn.Module,
    *,
    seed: int = 0,
    normalize: str = "filter",
    selection: Selection | None = None,
    move_vectors: bool = False,
    norm: float | None = None,
) -> Direction:
    """Draw a Gaussian direction and normalise it to the weights that it moves.

    With z ~ N(0, 1) for each element and m the selection's mask (1 everywhere without one), the direction in a
    filter f of a tensor is

        d_f = (z_f ∘ m_f) · ‖θ_f ∘ m_f‖ / ‖z_f ∘ m_f‖,

    that is, the Gaussian is masked first and then given the norm of the weights that really move, so one unit of
    a coordinate moves the selected part of each filter by 100 % of its own norm, whatever is selected.

    Parameters
    ----------
    model
        A module, or a `Pretrained`; it and the global generators are left alone.
    seed
        The draw of an element depends on nothing but the seed and its parameter's name: two selections share the
        same z.
    normalize
        "filter" (Li et al. 2018, arXiv 1712.09913, section 4): f is what produces one output unit: a row of a
        `Linear` or an `Embedding`, a column of GPT-2's transposed `Conv1D`, an output channel of a convolution.
        "tensor" (Sharma et al. 2024): f is the whole tensor. "none": the masked Gaussian itself.
    selection
        Move only these elements.
    move_vectors
        Also move 1-D tensors (biases and norms), each normalised as a whole. By default they stand still, as in
        Li et al. and Sharma et al.
    norm
        Rescale the whole direction to this Euclidean norm, for comparisons at equal distance.

    Returns
    -------
    Direction
        In float32 (float64 for float64 weights), on the parameters' devices.

    Raises
    ------
    ValueError
        Where nothing would move, or for an unknown normalisation.

    >>> model = nn.Linear(3, 2)
    >>> direction = random_direction(model, seed=0)
    >>> torch.allclose(direction.vectors["weight"].norm(dim=1), model.weight.norm(dim=1))
    True
    """
    moving = _Moving(model, selection, move_vectors)
    draws = {}
    for name, parameter in moving.parameters.items():
        draw = torch.randn(parameter.shape, generator=named_generator(f"direction {name}", seed))
        draws[name] = draw.to(parameter.device, working_dtype(parameter))
    return moving.direction(draws, normalize, norm, label=f"random direction {seed}", seed=seed)


def gradient_direction(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    normalize: str = "none",
    selection: Selection | None = None,
    move_vectors: bool = True,
    norm: float | None = None,
    loss: Loss | None = None,
) -> Direction:
    """Return the direction of steepest ascent: the gradient of the mean loss over sequences, 1/N Σ_n ∇L_n.

    Parameters
    ----------
    model, normalize, selection, move_vectors, norm
        As in `random_direction`. The model is in eval mode during the call and is left as it was.
    batches
        The text; gone through once.
    loss
        As in `sequence_losses`.

    Returns
    -------
    Direction
        In nats per unit of weight space with the default normalisation.

    Raises
    ------
    ValueError
        Where weights, losses or the gradient are not finite, or there are no batches.

    >>> model = nn.Linear(2, 1)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> gradient_direction(model, [{"input": torch.ones(4, 2)}], loss=square).label
    'gradient'
    """
    moving = _Moving(model, selection, move_vectors)
    check_weights(moving.model)
    parameters, wanted = list(moving.parameters.values()), trainable(moving.parameters)
    n_sequences = 0
    with own_arithmetic(), preserved_modes(moving.model), preserved_requires_grad(moving.model, requires_grad=True):
        sums = [torch.zeros_like(parameter, dtype=working_dtype(parameter)) for parameter in parameters]
        for number, batch in enumerate(map(recordable, checked_batches(model, batches, loss=loss))):
            losses = sequence_losses(moving.model, batch, loss=loss)
            finite_losses(losses, f"batch {number}")
            found = gradients(losses, parameters)
            if not number:
                again = partial(sequence_losses, moving.model, batch, loss=loss)
                check_known(moving.model, again, moving.parameters, found, wanted)
            n_sequences += len(losses)
            for total, part in zip(sums, found, strict=True):
                if part is not None:
                    total += part
        vectors = {name: (total / n_sequences).detach() for name, total in zip(moving.parameters, sums, strict=True)}
        return moving.direction(vectors, normalize, norm, label="gradient")


def difference_direction(
    model: nn.Module,
    end: nn.Module | Mapping[str, Tensor],
    *,
    normalize: str = "none",
    selection: Selection | None = None,
    move_vectors: bool = True,
    norm: float | None = None,
    label: str = "difference of two checkpoints",
) -> Direction:
    """Return the way from `model` to another checkpoint of the same backbone: θ_end − θ.

    Parameters that only one of the two has (a classifier's head, say) stand still; so do `model`'s parameters outside
    the selection. With the default normalisation coordinate 0 is `model` and coordinate 1 is `end`.

    Parameters
    ----------
    model, normalize, selection, move_vectors, norm
        As in `random_direction`.
    end
        A model, a state dict, or the path of a safetensors file.
    label
        For the axes of a picture.

    Returns
    -------
    Direction
        Only over the parameters that both have.

    Raises
    ------
    ValueError
        If the two share no parameter, or have one in different shapes.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> way = difference_direction(a, b)
    >>> torch.allclose(a.weight + way.vectors["weight"], b.weight)
    True
    """
    moving, others = _Moving(model, selection, move_vectors), weights_of(end)
    vectors: dict[str, Tensor] = {}
    for name, parameter in moving.parameters.items():
        other = others.get(name)
        if other is None:
            continue
        if other.shape != parameter.shape:
            raise ValueError(
                f"expected {name!r} of shape {tuple(parameter.shape)} in both checkpoints, got {tuple(other.shape)}; "
                "compare two checkpoints of one backbone"
            )
        dtype = working_dtype(parameter)
        vectors[name] = other.detach().to(parameter.device, dtype) - parameter.detach().to(dtype)
    if not vectors:
        raise ValueError(
            f"expected two checkpoints of one backbone, got none of {type(moving.model).__name__}'s parameters in the "
            f"other; its first names are {list(others)[:2]}"
        )
    return moving.direction(vectors, normalize, norm, label=label)


def working_dtype(parameter: Tensor) -> torch.dtype:
    """The precision to compute in: float64 for float64 weights, else float32 (half precision would round norms)."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


class _Moving:
    """The parameters of a model that may move, tied ones once, and the selection within them."""

    def __init__(self, model: nn.Module, selection: Selection | None, move_vectors: bool) -> None:
        self.model = undistributed(module(model))
        check_weights_present(self.model)
        if selection is not None:
            selection = instance(selection, Selection, "selection", "top_k or random_k").on(self.model)
        self.selection = selection
        self.parameters = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if differentiable(parameter)
            and (parameter.ndim > 1 or move_vectors)
            and (selection is None or name in selection.masks)
        }
        if not self.parameters:
            raise ValueError(
                "expected a selection with elements of matrices, got only 1-D tensors (biases and norms); "
                "pass move_vectors=True to move them"
            )

    def direction(self, vectors: dict[str, Tensor], normalize: str, norm: float | None, **facts: Any) -> Direction:
        """The masked and normalised `vectors`, with the label and seed among `facts`."""
        vectors = normalized(self.model, vectors, self.selection, normalize)
        where = "" if self.selection is None else self.selection.label
        direction = Direction(vectors, normalize=normalize, selection=where, **facts)
        return direction if norm is None else direction.scaled(norm)
