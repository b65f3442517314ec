"""Selections of the top, the bottom or a random part of the parameters: by element, tensor, layer or component."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from gdrop_viz.base.checks import instance, one_of
from gdrop_viz.base.order_statistics import largest
from gdrop_viz.fisher import Fisher
from gdrop_viz.perturbation.masks import RandomKeys, Shapes, apportioned, size_of, whole_mask
from gdrop_viz.perturbation.selection import Selection, grouping, shapes_of

_KINDS = ("element", "tensor", "layer", "component")


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

    Returns
    -------
    Selection
        Exactly k units, also among equal scores: the order is by score, then by the parameter's place in the model,
        then by position, and `bottom_k(n - k)` is the complement of `top_k(k)`.

    Raises
    ------
    ValueError
        For a k out of range, scores that are not finite, or elements asked of tensor-resolution scores.

    >>> import pandas as pd
    >>> from gdrop_viz.fisher import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"a.weight": 2.0, "b.weight": 5.0, "c.weight": 1.0}))
    >>> top_k(fisher, 2, by="tensor").names
    ['a.weight', 'b.weight']
    """
    return _ranked(fisher, k, by, bottom=False, within=within, parameters=parameters)


def bottom_k(
    fisher: Fisher,
    k: float,
    by: str = "element",
    *,
    within: str | None = None,
    parameters: Callable[[str], bool] | None = None,
) -> Selection:
    """Select the parameters with the lowest Fisher scores; parameters and errors as in `top_k`.

    >>> import pandas as pd
    >>> from gdrop_viz.fisher import Fisher
    >>> fisher = Fisher.from_means(pd.Series({"a.weight": 2.0, "b.weight": 5.0, "c.weight": 1.0}))
    >>> bottom_k(fisher, 2, by="tensor").names
    ['a.weight', 'c.weight']
    """
    return _ranked(fisher, k, by, bottom=True, within=within, parameters=parameters)


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

    Parameters
    ----------
    model
        A module or a `Pretrained`; or a Fisher or a Selection, whose parameters are then chosen from.
    k, by, within, parameters
        As in `top_k`.
    seed
        The same seed selects the same parameters on every machine, and leaves the global generators alone.

    Returns
    -------
    Selection
        Exactly k units, each set of k with the same probability.

    Raises
    ------
    ValueError
        For a k out of range, or where `parameters` accepts none.

    >>> model = nn.Linear(10, 10)
    >>> random_k(model, 0.1).n_elements == random_k(model, 11).n_elements == 11
    True
    """
    _check_kind(by, within)
    shapes = _chosen_from(shapes_of(model), parameters)
    label = f"random {_amount(k)} of {by}s" + (" in each tensor" if within else "") + f" (seed {seed})"
    if by == "element":
        masks = _selected_elements(RandomKeys(shapes, seed), shapes, k, within, bottom=False)
    else:
        units = list(dict.fromkeys(map(grouping(by), shapes)))
        keys = RandomKeys(dict.fromkeys(units, (1,)), seed)
        masks = _selected_units(shapes, by, {unit: float(key) for unit, key in keys.items()}, k, bottom=False)
    return Selection.from_masks(masks, shapes, label, None)


def select(
    model: nn.Module | Fisher | Selection, where: Callable[[str], bool] | Iterable[str], *, label: str = "chosen"
) -> Selection:
    """Select whole parameters by name: those that `where` accepts, or those that it lists.

    Raises ValueError for names that are none of the model's, or where no parameter fits.

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
    return Selection({name: whole_mask(shapes[name]) for name in names}, shapes, label)


def _ranked(
    fisher: Fisher,
    k: float,
    by: str,
    *,
    bottom: bool,
    within: str | None = None,
    parameters: Callable[[str], bool] | None = None,
) -> Selection:
    _check_kind(by, within)
    means = instance(fisher, Fisher, "fisher", "fisher_information").means
    of_fisher = shapes_of(fisher)
    shapes = _chosen_from({name: of_fisher.get(name) for name in means.index}, parameters)
    label = f"{'bottom' if bottom else 'top'} {_amount(k)} of {by}s" + (" in each tensor" if within else "")
    if by == "element":
        if fisher.scores is None:
            raise ValueError(
                "expected a Fisher with a score per element, got one of resolution 'tensor'; "
                "use by='tensor' or fisher_information(..., resolution='element')"
            )
        scores = {name: fisher.scores[name] for name in shapes}
        masks = _selected_elements(scores, shapes, k, within, bottom=bottom)
    else:
        # scores from elsewhere come without shapes: each tensor then weighs the same
        weights = {name: 1 if shape is None else size_of(shape) for name, shape in shapes.items()}
        sums: dict[str, float] = {}
        sizes: dict[str, int] = {}
        for name, group in zip(shapes, map(grouping(by), shapes), strict=True):
            sums[group] = sums.get(group, 0.0) + float(means[name]) * weights[name]
            sizes[group] = sizes.get(group, 0) + weights[name]
        masks = _selected_units(shapes, by, {group: sums[group] / sizes[group] for group in sums}, k, bottom=bottom)
    return Selection.from_masks(masks, shapes, label, fisher)


def _selected_elements(
    scores: Mapping[str, Tensor], shapes: Shapes, k: float, within: str | None, *, bottom: bool
) -> dict[str, Tensor]:
    sizes = [size_of(shape) for shape in shapes.values()]
    count = _number_of(k, sum(sizes), "elements")
    # the lowest k are what the highest n - k leave, so that top and bottom are complements also among ties
    wanted = sum(sizes) - count if bottom else count
    if within is None:
        masks = largest(scores, wanted)
    else:
        parts = zip(shapes, apportioned(wanted, sizes), strict=True)
        masks = {name: largest({name: scores[name]}, part)[name] for name, part in parts}
    return {name: mask.logical_not_() for name, mask in masks.items()} if bottom else masks


def _selected_units(
    shapes: Shapes, by: str, score_of: Mapping[str, float], k: float, *, bottom: bool
) -> dict[str, Tensor]:
    units = list(score_of)
    if not np.isfinite(list(score_of.values())).all():
        raise ValueError("expected finite scores, got NaN or infinity; estimate the Fisher information again")
    count = _number_of(k, len(units), f"{by}s")
    ranked = sorted(units, key=lambda unit: -score_of[unit])  # stable: ties stay in the model's order
    kept = set(ranked[-count:] if bottom else ranked[:count])
    group = grouping(by)
    return {name: whole_mask(shape) for name, shape in shapes.items() if group(name) in kept}


def _number_of(k: float, total: int, units: str) -> int:
    if isinstance(k, numbers.Integral) and not isinstance(k, bool):
        if 1 <= k <= total:
            return int(k)
    elif isinstance(k, numbers.Real) and not isinstance(k, bool) and 0 < k <= 1:
        return max(1, round(float(k) * total))
    raise ValueError(f"expected k as a fraction in (0, 1] or a count from 1 to {total:,} {units}, got {k!r}")


def _check_kind(by: str, within: str | None) -> None:
    one_of(by, _KINDS, "by")
    if within not in (None, "tensor") or (within and by != "element"):
        raise ValueError(f"expected within=None, or within='tensor' with by='element', got {within!r} with by={by!r}")


def _chosen_from(shapes: Shapes, parameters: Callable[[str], bool] | None) -> dict[str, tuple[int, ...] | None]:
    kept = {name: shape for name, shape in shapes.items() if parameters is None or parameters(name)}
    if not kept:
        raise ValueError(
            "expected parameters= to accept at least one parameter, got none; see model.named_parameters()"
        )
    return kept


def _amount(k: float) -> str:
    if not isinstance(k, numbers.Real):
        return repr(k)  # `_number_of` will refuse it
    return f"{int(k):,}" if isinstance(k, numbers.Integral) else f"{100 * float(k):g} %"
