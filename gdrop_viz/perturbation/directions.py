"""In which direction do the weights move? Normalised Gaussian draws, the gradient, or the way to another checkpoint."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import finite_losses, finite_weights, not_finite
from gdrop_viz.base.state import preserved_modes, preserved_requires_grad
from gdrop_viz.base.tensor_file import read_tensors, write_tensors
from gdrop_viz.models.losses import Loss, sequence_losses
from gdrop_viz.perturbation.checkpoints import weights_of
from gdrop_viz.perturbation.filters import normalized
from gdrop_viz.perturbation.masks import named_generator
from gdrop_viz.perturbation.selection import Selection

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector in the space of a model's parameters.

    Attributes
    ----------
    vectors
        Parameter name -> Tensor of the parameter's shape; a parameter that is not named does not move.
    label
        What it is, in words, for the axes of a picture.
    seed
        The seed of a random direction, else None.
    normalize
        How it was normalised: "filter", "tensor" or "none" (see `random_direction`).
    selection
        The label of the selection that it is restricted to; "" if it may move everything.

    >>> direction = random_direction(nn.Linear(3, 2), seed=0)
    >>> round(direction.scaled(2.0).norm, 6)
    2.0
    """

    vectors: Mapping[str, Tensor]
    label: str = "direction"
    seed: int | None = None
    normalize: str = "none"
    selection: str = ""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ValueError("expected at least one parameter that moves, got none; see Direction.vectors")
        if (bad := not_finite(self.vectors.items())) is not None:
            raise ValueError(f"expected finite steps, got NaN or infinity in {bad!r}; look at the weights behind it")

    @cached_property
    def norm(self) -> float:
        """The Euclidean norm over all elements (accumulated in float64)."""
        return self.dot(self) ** 0.5

    @property
    def n_elements(self) -> int:
        """How many elements move (are not zero)."""
        return sum(int(vector.count_nonzero()) for vector in self.vectors.values())

    def dot(self, other: Direction) -> float:
        """Return the inner product with another direction (accumulated in float64)."""
        shared = (name for name in self.vectors if name in other.vectors)
        return sum(float((self.vectors[name] * other.vectors[name]).sum(dtype=torch.float64)) for name in shared)

    def cosine(self, other: Direction) -> float:
        """Return the cosine of the angle to another direction."""
        return self.dot(other) / (self.norm * other.norm)

    def scaled(self, norm: float) -> Direction:
        """Return the same direction with the given Euclidean norm."""
        if not norm > 0:
            raise ValueError(f"expected a norm above 0, got {norm!r}")
        if not 0 < self.norm < float("inf"):
            raise ValueError(f"expected a direction of finite norm above 0, got {self.norm!r}; it cannot be rescaled")
        factor = norm / self.norm
        return replace(self, vectors={name: vector * factor for name, vector in self.vectors.items()})

    def to_frame(self) -> pd.DataFrame:
        """Return one row per moved tensor: its elements, how many of them move, and the direction's norm in it."""
        import pandas as pd

        rows = [
            {"tensor": name, "elements": v.numel(), "moved": int(v.count_nonzero()), "norm": float(v.double().norm())}
            for name, v in self.vectors.items()
        ]
        return pd.DataFrame(rows).set_index("tensor")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vectors as safetensors with label, seed, normalisation and selection beside them."""
        facts = {"label": self.label, "seed": self.seed, "normalize": self.normalize, "selection": self.selection}
        write_tensors(path, "Direction", self.vectors, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Direction:
        """Read a direction that `save` wrote; FileNotFoundError or ValueError if there is none at `path`."""
        vectors, facts = read_tensors(path, "Direction")
        return cls(vectors, **facts)

    def __repr__(self) -> str:
        where = f" over {self.selection}" if self.selection else ""
        size = f"norm {self.norm:.4g}, {self.n_elements:,} elements of {len(self.vectors)} tensors"
        return f"Direction({self.label + where!r}: {size}, normalize={self.normalize!r})"

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(float_format=lambda value: f"{value:.4g}", max_rows=12)
        return f"<p>{html.escape(repr(self))}</p>{table}"


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
    normalize
        "filter" (Li et al. 2018, arXiv 1712.09913, section 4): f is what produces one output unit: a row of a
        `Linear` or an `Embedding`, a column of GPT-2's transposed `Conv1D`, an output channel of a convolution.
        "tensor" (Sharma et al. 2024): f is the whole tensor. "none": the masked Gaussian itself.
    selection
        Move only these elements. The draw depends on nothing but the seed and the parameter's name: two
        selections share the same z.
    move_vectors
        Also move 1-D tensors (biases and norms), each normalised as a whole. By default they stand still, as in
        Li et al. and Sharma et al.
    norm
        Rescale the whole direction to this Euclidean norm, for comparisons at equal distance.

    The model and the global generators are left alone. Raises ValueError where nothing would move.

    >>> model = nn.Linear(3, 2)
    >>> direction = random_direction(model, seed=0)
    >>> torch.allclose(direction.vectors["weight"].norm(dim=1), model.weight.norm(dim=1))
    True
    """
    masked: dict[str, Tensor] = {}
    for name, parameter, mask in _moving(model, selection, move_vectors):
        draw = torch.randn(parameter.shape, generator=named_generator(f"direction {name}", seed))
        draw = draw.to(parameter.device, working_dtype(parameter))
        masked[name] = draw if mask is None else draw * mask
    return _finished(model, masked, selection, normalize, norm, label=f"random direction {seed}", seed=seed)


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

    The arguments are `random_direction`'s; `loss` is `sequence_losses`'s. The model is in eval mode during the
    call and is left as it was. Raises ValueError where weights, losses or the gradient are not finite.

    >>> model = nn.Linear(2, 1)
    >>> square = lambda outputs, batch: outputs[:, 0] ** 2
    >>> gradient_direction(model, [{"input": torch.ones(4, 2)}], loss=square).label
    'gradient'
    """
    moving = list(_moving(model, selection, move_vectors))
    finite_weights(model.named_parameters())
    parameters = [parameter for _, parameter, _ in moving]
    sums = [torch.zeros_like(parameter, dtype=working_dtype(parameter)) for parameter in parameters]
    n_sequences = 0
    with preserved_modes(model), preserved_requires_grad(model, requires_grad=True), torch.enable_grad():
        for number, batch in enumerate(batches):
            losses = sequence_losses(model, batch, loss=loss)
            finite_losses(losses, f"batch {number}")
            n_sequences += len(losses)
            for total, part in zip(sums, torch.autograd.grad(losses.sum(), parameters, allow_unused=True), strict=True):
                if part is not None:
                    total += part
    if not n_sequences:
        raise ValueError("expected at least one batch, got none; a generator is used up after one pass")
    vectors = {
        name: (total if mask is None else total * mask) / n_sequences
        for (name, _, mask), total in zip(moving, sums, strict=True)
    }
    return _finished(model, vectors, selection, normalize, norm, label="gradient")


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

    `end` is a model or a state dict. Parameters that only one of the two has (a classifier's head, say) stand
    still; so do `model`'s parameters outside the selection. With the default normalisation coordinate 0 is
    `model` and coordinate 1 is `end`.

    Raises ValueError if the two share no parameter, or have one in different shapes.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> way = difference_direction(a, b)
    >>> torch.allclose(a.weight + way.vectors["weight"], b.weight)
    True
    """
    others = weights_of(end)
    vectors: dict[str, Tensor] = {}
    for name, parameter, mask in _moving(model, selection, move_vectors):
        other = others.get(name)
        if other is None:
            continue
        if other.shape != parameter.shape:
            raise ValueError(
                f"expected {name!r} of shape {tuple(parameter.shape)} in both checkpoints, got {tuple(other.shape)}; "
                "compare two checkpoints of one backbone"
            )
        dtype = working_dtype(parameter)
        vector = other.detach().to(parameter.device, dtype) - parameter.detach().to(dtype)
        vectors[name] = vector if mask is None else vector * mask
    if not vectors:
        raise ValueError(
            f"expected two checkpoints of one backbone, got none of {type(model).__name__}'s parameters in the other; "
            f"its first names are {list(others)[:2]}"
        )
    return _finished(model, vectors, selection, normalize, norm, label=label)


def orthogonalized(*directions: Direction) -> list[Direction]:
    """Make each direction orthogonal to the ones before it, and give it back the norm it had (Gram-Schmidt).

    To be used AFTER normalisation, when a plane with perpendicular axes is wanted; the norm of the whole is kept,
    the norms of single filters change slightly. Raises ValueError if a direction lies in the span of the others.

    >>> model = nn.Linear(4, 4)
    >>> d1, d2 = orthogonalized(random_direction(model, seed=0), random_direction(model, seed=1))
    >>> abs(d1.cosine(d2)) < 1e-6
    True
    """
    done: list[Direction] = []
    for direction in directions:
        rest = direction
        for _ in range(2):  # once more: the first pass leaves what rounding put there
            for earlier in done:
                share = earlier.dot(rest) / earlier.dot(earlier)
                rest = replace(rest, vectors=_sum(rest.vectors, earlier.vectors, -share))
        if rest.norm <= 1e-6 * direction.norm:
            raise ValueError(
                f"expected directions that span a plane, got {direction.label!r} in the span of the ones before it; "
                "take another seed"
            )
        done.append(rest.scaled(direction.norm) if done else direction)
    return done


def working_dtype(parameter: Tensor) -> torch.dtype:
    """The precision to compute in: float64 for float64 weights, else float32 (half precision would round norms)."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _moving(
    model: nn.Module, selection: Selection | None, move_vectors: bool
) -> Iterable[tuple[str, nn.Parameter, Tensor | None]]:
    """The parameters that may move, tied ones once, each with the mask of its selected elements (None: all)."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass lm.model")
    if selection is not None:
        if not isinstance(selection, Selection):
            raise TypeError(
                f"expected selection= to be a Selection, got {type(selection).__name__}; use top_k or random_k"
            )
        selection = selection.on(model)
    found = False
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or (parameter.ndim < 2 and not move_vectors):
            continue
        if selection is not None and name not in selection.masks:
            continue
        found = True
        whole = selection is None or selection.is_whole(name)
        yield name, parameter, None if whole else selection.mask(name).to(parameter.device)
    if not found:
        raise ValueError(
            "expected a selection with elements of matrices, got only 1-D tensors (biases and norms); "
            "pass move_vectors=True to move them"
        )


def _finished(
    model: nn.Module,
    vectors: dict[str, Tensor],
    selection: Selection | None,
    normalize: str,
    norm: float | None,
    **facts: Any,
) -> Direction:
    vectors = normalized(model, vectors, selection, normalize)
    where = "" if selection is None else selection.label
    direction = Direction(vectors, normalize=normalize, selection=where, **facts)
    return direction if norm is None else direction.scaled(norm)


def _sum(a: Mapping[str, Tensor], b: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """a + factor · b over the parameters of either."""
    out = {name: a[name] + factor * b[name] if name in b else a[name] for name in a}
    out.update({name: factor * vector for name, vector in b.items() if name not in a})
    return out
