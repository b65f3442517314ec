"""Selection: a part of a model's parameters, element by element, and its share of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import instance, module, one_of
from gdrop_viz.base.order_statistics import largest
from gdrop_viz.base.saved import Saved
from gdrop_viz.models.anatomy import place_of
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.devices import check_weights_present
from gdrop_viz.models.differentiation import differentiable
from gdrop_viz.perturbation.masks import RandomKeys, Shape, Shapes, count_of, known, size_of, whole_mask

if TYPE_CHECKING:
    import pandas as pd

    from gdrop_viz.fisher import Fisher


@dataclass(frozen=True, eq=False, repr=False)
class Selection(Saved):
    """A part of a model's parameters, element by element.

    Attributes
    ----------
    masks
        Parameter name -> BoolTensor of the parameter's shape; only parameters with at least one selected element.
        A wholly selected tensor is kept as an expanded scalar and takes no memory.
    shapes
        Parameter name -> shape of every parameter that was chosen from (what `complement` is relative to). Tied
        parameters appear once, under the first of their names. None where it is not known because the scores came
        from elsewhere (`Fisher.from_means`): `on(model)` fills it in.
    label
        What was selected, in words, for axes and tables.
    fisher
        The scores that the selection was made from, if any; `summary` and `to_frame` use them.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    >>> from gdrop_viz.perturbation import random_k
    >>> few = random_k(model, 4, seed=0)
    >>> few.n_elements, (~few).n_elements, (few | ~few).n_elements, (few & ~few).n_elements
    (4, 7, 11, 0)
    >>> few.mask("0.weight").shape
    torch.Size([2, 3])
    """

    masks: Mapping[str, Tensor]
    shapes: Shapes
    label: str = "selection"
    fisher: Fisher | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            shape = self.shapes.get(name, "none")
            if mask.dtype != torch.bool or (shape is not None and tuple(mask.shape) != shape):
                raise ValueError(
                    f"expected for {name!r} a BoolTensor of shape {shape}, "
                    f"got {mask.dtype} of shape {tuple(mask.shape)}; give each mask its parameter's shape"
                )

    @classmethod
    def from_masks(
        cls, masks: Mapping[str, Tensor], shapes: Shapes, label: str, fisher: Fisher | None = None
    ) -> Selection:
        """Make a selection of any masks: empty ones are dropped, full ones shrunk to a scalar."""
        kept = {}
        for name, mask in masks.items():
            if count := count_of(mask):
                full = shapes[name] is None or count == size_of(shapes[name])
                kept[name] = whole_mask(shapes[name]) if full else mask
        return cls(kept, shapes, label, fisher)

    @property
    def names(self) -> list[str]:
        """The parameters with at least one selected element, in the model's order."""
        return list(self.masks)

    @property
    def n_elements(self) -> int:
        """How many elements are selected."""
        return sum(size_of(self.shapes[n]) if self.is_whole(n) else count_of(mask) for n, mask in self.masks.items())

    @property
    def n_total(self) -> int:
        """How many elements were chosen from."""
        return sum(map(size_of, self.shapes.values()))

    def mask(self, name: str) -> Tensor:
        """Return the selected elements of the parameter `name` as a BoolTensor of its shape.

        Raises ValueError if `name` was not among the parameters that were chosen from.
        """
        if name not in self.shapes:
            raise ValueError(
                f"expected one of the {len(self.shapes)} parameters of the selection, got {name!r}; "
                "a tied parameter goes by the first of its names in model.named_parameters()"
            )
        shape, mask = known(self.shapes[name]), self.masks.get(name)
        return torch.zeros(shape, dtype=torch.bool) if mask is None else mask.contiguous()

    def is_whole(self, name: str) -> bool:
        """Tell whether every element of the parameter `name` is selected."""
        if name not in self.masks:
            return False
        return self.shapes[name] is None or count_of(self.masks[name]) == size_of(self.shapes[name])

    def complement(self) -> Selection:
        """Return everything else among the same parameters; also `~selection`."""
        rest = {
            name: ~self.masks[name] if name in self.masks else whole_mask(shape) for name, shape in self.shapes.items()
        }
        return self.from_masks(rest, self.shapes, f"all but {self.label}", self.fisher)

    def union(self, other: Selection) -> Selection:
        """Return what is in either selection; also `a | b`."""
        return self._combined(other, torch.logical_or, "or")

    def intersection(self, other: Selection) -> Selection:
        """Return what is in both selections; also `a & b`."""
        return self._combined(other, torch.logical_and, "and")

    __invert__, __or__, __and__ = complement, union, intersection

    def random_like(self, seed: int = 0) -> Selection:
        """Return a random selection with as many elements in EACH tensor as this one.

        The sharper control beside `random_k`: it differs from this selection in which elements of a tensor are
        chosen, but not in how many lie in which tensor.
        """
        masks = dict(self.masks)
        for name, mask in self.masks.items():
            if not self.is_whole(name):
                masks |= largest(RandomKeys({name: tuple(mask.shape)}, seed), count_of(mask))
        label = f"random, per tensor as many as {self.label} (seed {seed})"
        return self.from_masks(masks, self.shapes, label, self.fisher)

    def on(self, model: nn.Module) -> Selection:
        """Return this selection with all shapes known from `model`.

        Raises ValueError if `model` lacks one of the selected parameters or has it in another shape.
        """
        shapes = shapes_of(model)
        for name in self.masks:
            if name not in shapes:
                raise ValueError(
                    f"expected a model with the selected parameter {name!r}, got {type(model).__name__} without it; "
                    "make the selection from this model or from its Fisher information"
                )
            if self.shapes[name] not in (None, shapes[name]):
                raise ValueError(
                    f"expected {name!r} of shape {self.shapes[name]}, got {shapes[name]} in "
                    f"{type(model).__name__}; make the selection from this model or from its Fisher information"
                )
        if self._shapes_known:
            return self
        full = {name: shapes.get(name) if shape is None else shape for name, shape in self.shapes.items()}
        masks = {name: whole_mask(full[name]) if self.is_whole(name) else mask for name, mask in self.masks.items()}
        return Selection(masks, full, self.label, self.fisher)

    def summary(self, *, model: nn.Module | None = None, fisher: Fisher | None = None) -> pd.Series:
        """Return elements, share of elements, of Fisher information and (with `model`) of the squared weight norm."""
        frame = self.to_frame("tensor", model=model, fisher=fisher)
        shares = {name: frame[name].sum(skipna=False) for name in frame.columns if name.startswith("share_of_")}
        import pandas as pd

        return pd.Series({"elements": self.n_elements, "share_of_elements": self.n_elements / self.n_total, **shares})

    def to_frame(
        self, by: str = "layer", *, model: nn.Module | None = None, fisher: Fisher | None = None
    ) -> pd.DataFrame:
        """Return where the selection lies: one row per layer (or "tensor", or "component").

        Columns: `elements` (all of the group), `selected` (of them), `share_selected` (selected / elements), and of
        the WHOLE model's sum what lies in the selected elements of the group: `share_of_fisher` (Σ scores; needs
        the Fisher information, by default the one that the selection was made from) and `share_of_squared_norm`
        (Σ θ²; needs `model`). A share is NaN where tensor-resolution scores cannot tell.
        """
        import pandas as pd

        if model is not None and (filled := self.on(model)) is not self:
            return filled.to_frame(by, model=model, fisher=fisher)
        group = grouping(by)
        fisher = self.fisher if fisher is None else fisher
        rows = []
        for name, shape in self.shapes.items():
            mask = self.masks.get(name)
            row: dict[str, Any] = {"group": group(name), "elements": size_of(shape)}
            row["selected"] = 0 if mask is None else count_of(mask)
            if fisher is not None:
                row["share_of_fisher"], row["fisher_total"] = _fisher_sums(fisher, name, mask, shape)
            rows.append((name, row))
        if model is not None:
            check_weights_present(model)
            parameters = dict(undistributed(module(model)).named_parameters())
            for name, row in rows:
                if name not in parameters:
                    raise ValueError(f"expected a model with the parameter {name!r}, got one without it")
                squares = parameters[name].detach().double().square()
                mask = self.masks.get(name)
                row["norm_total"] = float(squares.sum())
                row["share_of_squared_norm"] = 0.0 if mask is None else float((squares * mask.to(squares.device)).sum())
        frame = pd.DataFrame([row for _, row in rows]).groupby("group", sort=False).sum(min_count=1)
        for share, total in (("share_of_fisher", "fisher_total"), ("share_of_squared_norm", "norm_total")):
            if share in frame:
                whole = frame.pop(total).sum()
                frame[share] /= whole if whole else float("nan")
        frame.insert(2, "share_selected", frame["selected"] / frame["elements"])
        return frame.rename_axis(by)

    def _kept(self) -> dict[str, Any]:
        """One bit per element; the Fisher information is not saved with it."""
        partly = [name for name in self.masks if not self.is_whole(name)]
        bits = {name: np.packbits(self.masks[name].numpy()) for name in partly}
        return {"label": self.label, "shapes": self.shapes, "selected": self.names, "bits": bits}

    @classmethod
    def _remade(cls, kept: dict[str, Any]) -> Selection:
        shapes, masks = kept["shapes"], {}
        for name in kept["selected"]:
            masks[name] = whole_mask(shapes[name])
            if name in kept["bits"]:
                flat = np.unpackbits(kept["bits"][name], count=size_of(shapes[name])).astype(bool)
                masks[name] = torch.from_numpy(flat).reshape(shapes[name])
        return cls(masks, shapes, kept["label"])

    @property
    def _shapes_known(self) -> bool:
        return None not in self.shapes.values()

    def _summary(self) -> str:
        tensors = f"{len(self.masks)} of {len(self.shapes)} tensors"
        if not self._shapes_known:
            return f"{self.label!r}: {tensors}, shapes not known"
        return f"{self.label!r}: {self.n_elements:,} of {self.n_total:,} elements in {tensors}"

    def _table(self) -> pd.DataFrame | None:
        return self.to_frame() if self._shapes_known else None

    def _combined(self, other: Selection, operation: Callable[[Tensor, Tensor], Tensor], word: str) -> Selection:
        instance(other, Selection, "the other", "top_k, bottom_k or random_k")
        for name in self.shapes.keys() & other.shapes.keys():
            if self.shapes[name] != other.shapes[name]:
                raise ValueError(
                    f"expected two selections of one model, got {name!r} of shapes {self.shapes[name]} and "
                    f"{other.shapes[name]}; select from the same model"
                )
        shapes = {**self.shapes, **other.shapes}
        none = torch.zeros((), dtype=torch.bool)
        masks = {
            name: operation(self.masks.get(name, none), other.masks.get(name, none))
            for name in shapes
            if name in self.masks or name in other.masks
        }
        masks = {name: mask.expand(shapes[name] or mask.shape) for name, mask in masks.items()}
        fisher = self.fisher if self.fisher is not None else other.fisher
        return self.from_masks(masks, shapes, f"({self.label}) {word} ({other.label})", fisher)


def shapes_of(model: nn.Module | Fisher | Selection) -> dict[str, tuple[int, ...] | None]:
    """Return parameter name -> shape of a model's parameters with gradients (tied ones once), a Fisher, a Selection."""
    shapes = getattr(model, "shapes", None)
    if not isinstance(model, nn.Module) and isinstance(shapes, Mapping):
        return {name: None if shape is None else tuple(shape) for name, shape in shapes.items()}
    parameters = undistributed(module(model)).named_parameters()
    return {name: tuple(parameter.shape) for name, parameter in parameters if differentiable(parameter)}


def grouping(by: str) -> Callable[[str], str]:
    """Return parameter name -> its group: "tensor", "layer", "component", "place" (component of a layer) or "all".

    >>> grouping("place")("bert.encoder.layer.3.attention.self.query.weight")
    'layer 3, attention'
    """
    groupings: dict[str, Callable[[str], str]] = {
        "tensor": lambda name: name,
        "layer": lambda name: place_of(name).label,
        "component": lambda name: place_of(name).component,
        "place": lambda name: f"{place_of(name).label}, {place_of(name).component}",
        "all": lambda name: "all",
    }
    return groupings[one_of(by, groupings, "by")]


def _fisher_sums(fisher: Fisher, name: str, mask: Tensor | None, shape: Shape) -> tuple[float, float]:
    if name not in fisher.means.index:
        raise ValueError(f"expected a Fisher with the parameter {name!r}, got one without it; use the same model's")
    total = float(fisher.means[name]) * size_of(shape)
    if mask is None:
        return 0.0, total
    if count_of(mask) == size_of(shape):
        return total, total
    if fisher.scores is None:
        return float("nan"), total
    return float((fisher.scores[name] * mask).sum(dtype=torch.float64)), total
