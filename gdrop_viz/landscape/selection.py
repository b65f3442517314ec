"""Which parameters are moved? The top, the bottom or a random part of all elements, tensors, layers or components."""

from __future__ import annotations

import hashlib
import html
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.anatomy import place_of
from gdrop_viz.landscape._tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import pandas as pd

    from gdrop_viz.fisher import Fisher

Shape = Sequence[int] | None
Shapes = Mapping[str, tuple[int, ...] | None]
_KINDS = ("element", "tensor", "layer", "component")


@dataclass(frozen=True, eq=False)
class Selection:
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

    @property
    def names(self) -> list[str]:
        """The parameters with at least one selected element, in the model's order."""
        return list(self.masks)

    @property
    def n_elements(self) -> int:
        """How many elements are selected."""
        return sum(_size(self.shapes[n]) if self.is_whole(n) else _count(mask) for n, mask in self.masks.items())

    @property
    def n_total(self) -> int:
        """How many elements were chosen from."""
        return sum(map(_size, self.shapes.values()))

    def mask(self, name: str) -> Tensor:
        """Return the selected elements of the parameter `name` as a BoolTensor of its shape.

        Raises ValueError if `name` was not among the parameters that were chosen from.
        """
        if name not in self.shapes:
            raise ValueError(
                f"expected one of the {len(self.shapes)} parameters of the selection, got {name!r}; "
                "a tied parameter goes by the first of its names in model.named_parameters()"
            )
        mask = self.masks.get(name)
        _size(self.shapes[name])  # must be known
        return torch.zeros(self.shapes[name], dtype=torch.bool) if mask is None else mask.contiguous()

    def is_whole(self, name: str) -> bool:
        """Tell whether every element of the parameter `name` is selected."""
        if name not in self.masks:
            return False
        return self.shapes[name] is None or _count(self.masks[name]) == _size(self.shapes[name])

    def complement(self) -> Selection:
        """Return everything else among the same parameters; also `~selection`."""
        rest = {name: ~self.masks[name] if name in self.masks else _whole(shape) for name, shape in self.shapes.items()}
        return self._derived(rest, self.shapes, f"all but {self.label}", self.fisher)

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
        masks = {
            name: mask if self.is_whole(name) else _largest({name: _keys(name, mask.shape, seed)}, _count(mask))[name]
            for name, mask in self.masks.items()
        }
        return self._derived(
            masks, self.shapes, f"random, per tensor as many as {self.label} (seed {seed})", self.fisher
        )

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
        if None not in self.shapes.values():
            return self
        known = {name: shapes.get(name) if shape is None else shape for name, shape in self.shapes.items()}
        masks = {name: _whole(known[name]) if self.is_whole(name) else mask for name, mask in self.masks.items()}
        return Selection(masks, known, self.label, self.fisher)

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

        if model is not None and (known := self.on(model)) is not self:
            return known.to_frame(by, model=model, fisher=fisher)
        group = _grouping(by)
        fisher = self.fisher if fisher is None else fisher
        rows = []
        for name, shape in self.shapes.items():
            mask = self.masks.get(name)
            row: dict[str, Any] = {"group": group(name), "elements": _size(shape)}
            row["selected"] = 0 if mask is None else _count(mask)
            if fisher is not None:
                row["share_of_fisher"], row["fisher_total"] = _fisher_sums(fisher, name, mask, shape)
            rows.append((name, row))
        if model is not None:
            parameters = dict(model.named_parameters())
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the masks (one bit per element) as safetensors; the Fisher information is not saved with them."""
        whole = {name for name in self.masks if self.is_whole(name)}
        bits = {name: np.packbits(mask.numpy()) for name, mask in self.masks.items() if name not in whole}
        facts = {"label": self.label, "shapes": dict(self.shapes), "selected": self.names}
        write_tensors(path, "Selection", bits, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read a selection that `save` wrote; FileNotFoundError or ValueError if there is none at `path`."""
        bits, facts = read_tensors(path, "Selection")
        shapes = {name: None if shape is None else tuple(shape) for name, shape in facts["shapes"].items()}
        masks = {}
        for name in facts["selected"]:
            masks[name] = _whole(shapes[name])
            if name in bits:
                flat = np.unpackbits(bits[name].numpy(), count=_size(shapes[name])).astype(bool)
                masks[name] = torch.from_numpy(flat).reshape(shapes[name])
        return cls(masks, shapes, facts["label"])

    def __repr__(self) -> str:
        tensors = f"{len(self.masks)} of {len(self.shapes)} tensors"
        if None in self.shapes.values():
            return f"Selection({self.label!r}: {tensors}, shapes not known)"
        return f"Selection({self.label!r}: {self.n_elements:,} of {self.n_total:,} elements in {tensors})"

    def _repr_html_(self) -> str:
        if None in self.shapes.values():
            return f"<p>{html.escape(repr(self))}</p>"
        table = self.to_frame().to_html(float_format=lambda value: f"{value:.4g}")
        return f"<p>{html.escape(repr(self))}</p>{table}"

    def _combined(self, other: Selection, operation: Callable[[Tensor, Tensor], Tensor], word: str) -> Selection:
        if not isinstance(other, Selection):
            raise TypeError(
                f"expected a Selection, got {type(other).__name__}; make one with top_k, bottom_k or random_k"
            )
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
        masks = {name: mask if shapes[name] is None else mask.expand(shapes[name]) for name, mask in masks.items()}
        fisher = self.fisher if self.fisher is not None else other.fisher
        return self._derived(masks, shapes, f"({self.label}) {word} ({other.label})", fisher)

    @staticmethod
    def _derived(masks: Mapping[str, Tensor], shapes: Shapes, label: str, fisher: Fisher | None) -> Selection:
        kept = {}
        for name, mask in masks.items():
            count = _count(mask)
            if count:
                whole = shapes[name] is None or count == _size(shapes[name])
                kept[name] = _whole(shapes[name]) if whole else mask
        return Selection(kept, shapes, label, fisher)


def top_k(
    fisher: Fisher,
    k: float,
    by: str = "element",
    *,
    within: str | None = None,
    parameters: Callable[[str], bool] | None = None,
) -> Selection:
    """Select the parameters with the highest Fisher scores.

    Parameters
    ----------
    k
        A fraction (float, 0 < k <= 1) or a count (int >= 1) of the units that `by` names.
    by
        "element": single parameters, by one threshold over the whole model; "tensor": whole tensors by their mean
        score (the paper's choice, with k=0.5); "layer" or "component": whole layers (or attention, feed-forward,
        ...) by the mean score of their elements.
    within
        "tensor" (with by="element"): the same fraction in each tensor; the total is still exactly k (largest
        remainders).
    parameters
        Choose only among the parameters whose name this function accepts.

    Exactly k units are selected, also among equal scores: the order is by score, then by the parameter's place in
    the model, then by position, and `bottom_k(n - k)` is the complement of `top_k(k)`.

    Raises ValueError for a k out of range, scores that are not finite, or elements asked of tensor-resolution scores.

    >>> import pandas as pd
    >>> from gdrop_viz.fisher import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"a.weight": 2.0, "b.weight": 5.0, "c.weight": 1.0}))
    >>> top_k(fisher, 2, by="tensor").names
    ['a.weight', 'b.weight']
    """
    return _ranked(fisher, k, by, within, parameters, bottom=False)


def bottom_k(
    fisher: Fisher,
    k: float,
    by: str = "element",
    *,
    within: str | None = None,
    parameters: Callable[[str], bool] | None = None,
) -> Selection:
    """Select the parameters with the lowest Fisher scores; arguments, ties and errors as in `top_k`.

    >>> import pandas as pd
    >>> from gdrop_viz.fisher import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"a.weight": 2.0, "b.weight": 5.0, "c.weight": 1.0}))
    >>> bottom_k(fisher, 2, by="tensor").names
    ['a.weight', 'c.weight']
    """
    return _ranked(fisher, k, by, within, parameters, bottom=True)


def random_k(
    model: nn.Module | Fisher | Selection,
    k: float,
    by: str = "element",
    *,
    seed: int = 0,
    within: str | None = None,
    parameters: Callable[[str], bool] | None = None,
) -> Selection:
    """Select at random, without replacement: the control of equal size for `top_k` and `bottom_k`.

    Arguments as in `top_k`; `model` may also be a Fisher or a Selection, whose parameters are then chosen from.
    The same seed selects the same parameters on every machine, and leaves the global generators alone.

    >>> model = nn.Linear(10, 10)
    >>> random_k(model, 0.1).n_elements == random_k(model, 11).n_elements == 11
    True
    """
    _check_kind(by, within)
    shapes = _chosen_from(shapes_of(model), parameters)
    label = f"random {_amount(k)} of {by}s" + (" in each tensor" if within else "") + f" (seed {seed})"
    if by == "element":
        keys = {name: _keys(name, shape, seed) for name, shape in shapes.items()}
        masks = _selected_elements(keys, k, within, bottom=False)
    else:
        units = list(dict.fromkeys(map(_grouping(by), shapes)))
        masks = _selected_units(shapes, by, {unit: float(_keys(unit, (1,), seed)) for unit in units}, k, bottom=False)
    return Selection._derived(masks, shapes, label, None)


def select(
    model: nn.Module | Fisher | Selection, where: Callable[[str], bool] | Iterable[str], *, label: str = "chosen"
) -> Selection:
    """Select whole parameters by name: those that `where` accepts, or those that it lists.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    >>> select(model, lambda name: name.startswith("1."), label="layer 1").names
    ['1.weight', '1.bias']
    """
    shapes = shapes_of(model)
    if callable(where):
        names = [name for name in shapes if where(name)]
    else:
        wanted = set(where)
        if missing := sorted(wanted - shapes.keys()):
            raise ValueError(
                f"expected names of the model's parameters, got {missing[0]!r}; see model.named_parameters()"
            )
        names = [name for name in shapes if name in wanted]
    if not names:
        raise ValueError("expected at least one parameter, got none that fits; see model.named_parameters()")
    return Selection({name: _whole(shapes[name]) for name in names}, shapes, label)


def shapes_of(model: nn.Module | Fisher | Selection) -> dict[str, tuple[int, ...] | None]:
    """Return parameter name -> shape of a model's floating-point parameters (tied ones once), a Fisher, a Selection."""
    if isinstance(model, nn.Module):
        return {name: tuple(p.shape) for name, p in model.named_parameters() if p.is_floating_point()}
    shapes = getattr(model, "shapes", None)
    if shapes is None:
        raise TypeError(
            f"expected a torch.nn.Module, a Fisher or a Selection, got {type(model).__name__}; pass lm.model"
        )
    return {name: None if shape is None else tuple(shape) for name, shape in shapes.items()}


def _ranked(
    fisher: Fisher, k: float, by: str, within: str | None, parameters: Callable[[str], bool] | None, *, bottom: bool
) -> Selection:
    _check_kind(by, within)
    if not hasattr(fisher, "means"):
        raise TypeError(f"expected a Fisher, got {type(fisher).__name__}; make one with fisher_information")
    means = fisher.means
    known = shapes_of(fisher)
    shapes = _chosen_from({name: known.get(name) for name in means.index}, parameters)
    label = f"{'bottom' if bottom else 'top'} {_amount(k)} of {by}s" + (" in each tensor" if within else "")
    if by == "element":
        if fisher.scores is None:
            raise ValueError(
                "expected a Fisher with a score per element, got one of resolution 'tensor'; "
                "use by='tensor' or fisher_information(..., resolution='element')"
            )
        masks = _selected_elements({name: fisher.scores[name] for name in shapes}, k, within, bottom=bottom)
    else:
        # scores from elsewhere come without shapes: each tensor then weighs the same
        weights = {name: 1 if shape is None else _size(shape) for name, shape in shapes.items()}
        sums: dict[str, float] = {}
        sizes: dict[str, int] = {}
        for name, group in zip(shapes, map(_grouping(by), shapes), strict=True):
            sums[group] = sums.get(group, 0.0) + float(means[name]) * weights[name]
            sizes[group] = sizes.get(group, 0) + weights[name]
        masks = _selected_units(shapes, by, {group: sums[group] / sizes[group] for group in sums}, k, bottom=bottom)
    return Selection._derived(masks, shapes, label, fisher)


def _selected_elements(scores: dict[str, Tensor], k: float, within: str | None, *, bottom: bool) -> dict[str, Tensor]:
    sizes = [score.numel() for score in scores.values()]
    count = _count_of(k, sum(sizes), "elements")
    # the lowest k are what the highest n - k leave, so that top and bottom are complements also among ties
    wanted = sum(sizes) - count if bottom else count
    if within is None:
        masks = _largest(scores, wanted)
    else:
        parts = zip(scores.items(), _apportioned(wanted, sizes), strict=True)
        masks = {name: _largest({name: score}, part)[name] for (name, score), part in parts}
    return {name: ~mask for name, mask in masks.items()} if bottom else masks


def _largest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of exactly the `count` largest of all elements; among equals the earlier parameter and position win."""
    scores = {name: score.detach().cpu() for name, score in scores.items()}
    # numpy knows no bfloat16
    scores = {n: s.float() if s.dtype in (torch.bfloat16, torch.float16) else s for n, s in scores.items()}
    total = sum(score.numel() for score in scores.values())
    if count == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    flat = torch.cat([score.reshape(-1) for score in scores.values()]).numpy()
    if flat.base is not None and len(scores) == 1:
        flat = flat.copy()  # partition works in place
    flat.partition(total - count)
    if not np.isfinite(flat[total - count :]).all():  # NaN counts as the largest
        raise ValueError("expected finite scores, got NaN or infinity; estimate the Fisher information again")
    threshold = flat[total - count].item()
    masks = {name: score > threshold for name, score in scores.items()}
    missing = count - sum(_count(mask) for mask in masks.values())
    for name, score in scores.items():
        if not missing:
            break
        ties = (score == threshold).reshape(-1).nonzero().squeeze(1)[:missing]
        masks[name].view(-1)[ties] = True
        missing -= len(ties)
    return masks


def _selected_units(
    shapes: Shapes, by: str, score_of: Mapping[str, float], k: float, *, bottom: bool
) -> dict[str, Tensor]:
    units = list(score_of)
    if not np.isfinite(list(score_of.values())).all():
        raise ValueError("expected finite scores, got NaN or infinity; estimate the Fisher information again")
    count = _count_of(k, len(units), f"{by}s")
    ranked = sorted(units, key=lambda unit: -score_of[unit])  # stable: ties stay in the model's order
    kept = set(ranked[-count:] if bottom else ranked[:count])
    group = _grouping(by)
    return {name: _whole(shape) for name, shape in shapes.items() if group(name) in kept}


def _count_of(k: float, total: int, units: str) -> int:
    if isinstance(k, numbers.Integral) and not isinstance(k, bool):
        if 1 <= k <= total:
            return int(k)
    elif isinstance(k, numbers.Real) and not isinstance(k, bool) and 0 < k <= 1:
        return max(1, round(float(k) * total))
    raise ValueError(f"expected k as a fraction in (0, 1] or a count from 1 to {total:,} {units}, got {k!r}")


def _apportioned(count: int, sizes: Sequence[int]) -> list[int]:
    """Split `count` in proportion to `sizes` so that the parts add up exactly (largest remainders)."""
    total = sum(sizes)
    parts = [count * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(count * sizes[i] % total))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


def _keys(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Independent random integers, one per element, that depend on nothing but the seed and the parameter's name."""
    return torch.empty(tuple(shape), dtype=torch.int32).random_(generator=named_generator(f"selection {name}", seed))


def named_generator(name: str, seed: int) -> torch.Generator:
    """A CPU generator of its own for each (seed, name), so that no draw depends on the order of the others."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _fisher_sums(fisher: Fisher, name: str, mask: Tensor | None, shape: Shape) -> tuple[float, float]:
    if name not in fisher.means.index:
        raise ValueError(f"expected a Fisher with the parameter {name!r}, got one without it; use the same model's")
    total = float(fisher.means[name]) * _size(shape)
    if mask is None:
        return 0.0, total
    if _count(mask) == _size(shape):
        return total, total
    if fisher.scores is None:
        return float("nan"), total
    return float((fisher.scores[name] * mask).sum(dtype=torch.float64)), total


def _grouping(by: str) -> Callable[[str], str]:
    groupings = {
        "tensor": lambda name: name,
        "layer": lambda name: place_of(name).label,
        "component": lambda name: place_of(name).component,
    }
    if by not in groupings:
        raise ValueError(f"expected by= one of {', '.join(map(repr, groupings))}, got {by!r}")
    return groupings[by]


def _check_kind(by: str, within: str | None) -> None:
    if by not in _KINDS:
        raise ValueError(f"expected by= one of {', '.join(map(repr, _KINDS))}, got {by!r}")
    if within not in (None, "tensor") or (within and by != "element"):
        raise ValueError(f"expected within=None, or within='tensor' with by='element', got {within!r} with by={by!r}")


def _chosen_from(shapes: Shapes, parameters: Callable[[str], bool] | None) -> dict[str, tuple[int, ...] | None]:
    kept = {name: shape for name, shape in shapes.items() if parameters is None or parameters(name)}
    if not kept:
        raise ValueError(
            "expected parameters= to accept at least one parameter, got none; see model.named_parameters()"
        )
    return kept


def _whole(shape: Shape) -> Tensor:
    return torch.ones((), dtype=torch.bool).expand(tuple(shape or ()))


def _count(mask: Tensor) -> int:
    if mask.numel() and not any(mask.stride()):  # an expanded scalar
        return mask.numel() if bool(mask.reshape(-1)[0]) else 0
    return int(mask.count_nonzero())


def _size(shape: Shape) -> int:
    if shape is None:
        raise ValueError(
            "expected parameters of known shape, got scores from elsewhere; call selection.on(model) first"
        )
    return int(np.prod(shape, dtype=np.int64))


def _amount(k: float) -> str:
    if not isinstance(k, numbers.Real):
        return repr(k)  # `_count_of` will refuse it
    return f"{int(k):,}" if isinstance(k, numbers.Integral) else f"{100 * float(k):g} %"
