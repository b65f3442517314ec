"""Checks of arguments, in one dialect: what was expected, what came, what to do."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Kind = TypeVar("_Kind")


def instance(value: object, kind: type[_Kind], what: str, source: str) -> _Kind:
    """Return `value`, the argument called `what`; raise TypeError unless it is a `kind`, which `source` makes.

    >>> instance("words", dict, "rates", "schedule.rates")
    Traceback (most recent call last):
    TypeError: expected rates as a dict, as schedule.rates gives it, got str
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected {what} as a {kind.__name__}, as {source} gives it, got {type(value).__name__}")
    return value


def module(model: Any) -> nn.Module:
    """Return the module itself: `model`, or the `model` of a `Pretrained`; raise TypeError for anything else.

    >>> module("bert-mini")
    Traceback (most recent call last):
    TypeError: expected model as a torch.nn.Module or a Pretrained, got str; gv.load_pretrained loads one by name
    """
    inner = getattr(model, "model", None)
    if not isinstance(model, nn.Module) and isinstance(inner, nn.Module):
        return inner
    if not isinstance(model, nn.Module):
        hint = "; gv.load_pretrained loads one by name" if isinstance(model, str) else ""
        raise TypeError(f"expected model as a torch.nn.Module or a Pretrained, got {type(model).__name__}{hint}")
    return model


def whole(value: object, what: str, *, least: int = 1, most: int | None = None) -> int:
    """Return `value` as an int; raise ValueError unless it is a whole number from `least` to `most`.

    >>> whole(2.5, "points", least=2)
    Traceback (most recent call last):
    ValueError: expected points as a whole number of at least 2, got 2.5
    """
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or int(value) < least or (most is not None and int(value) > most):  # type: ignore[call-overload]
        bounds = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
        raise ValueError(f"expected {what} as a whole number {bounds}, got {value!r}")
    return int(value)  # type: ignore[call-overload]


def number(
    value: object, what: str, *, above: float | None = None, least: float | None = None, below: float | None = None,
    most: float | None = None,
) -> float:  # fmt: skip
    """Return `value` as a float; raise ValueError unless it is a finite real number within the bounds.

    >>> number(1.5, "fraction", above=0, most=1)
    Traceback (most recent call last):
    ValueError: expected fraction as a number above 0 and at most 1, got 1.5
    """
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(float(value)) < float("inf")
    x = float(value) if good else 0.0  # type: ignore[arg-type]
    bounds = {
        "above": (above, lambda bound: x > bound),
        "at least": (least, lambda bound: x >= bound),
        "below": (below, lambda bound: x < bound),
        "at most": (most, lambda bound: x <= bound),
    }
    asked = {words: (bound, test) for words, (bound, test) in bounds.items() if bound is not None}
    if not good or not all(test(bound) for bound, test in asked.values()):
        within = " and ".join(f"{words} {bound:g}" for words, (bound, _) in asked.items())
        raise ValueError(f"expected {what} as a {'number ' + within if within else 'finite number'}, got {value!r}")
    return x


def one_of(value: _Kind, allowed: Collection[object], what: str) -> _Kind:
    """Return `value`; raise ValueError unless it is among `allowed`.

    >>> one_of("row", ("tensor", "layer"), "by")
    Traceback (most recent call last):
    ValueError: expected by to be one of 'tensor', 'layer', got 'row'
    """
    if not any(value is each or (type(value) is type(each) and value == each) for each in allowed):
        raise ValueError(f"expected {what} to be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def few(names: Collection[str], shown: int = 3) -> str:
    """Name the first of many in one line: "a, b, c and 34 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(list(names)[:shown]) + more


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor in memory that holds NaN or infinity, if one does."""
    return next((name for name, tensor in tensors if not (tensor.is_meta or bool(torch.isfinite(tensor).all()))), None)


def finite_weights(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ValueError, with the name of the first one, if a weight in memory is NaN or infinite.

    >>> finite_weights([("a.weight", torch.tensor([1.0, torch.inf]))])
    Traceback (most recent call last):
    ValueError: expected finite weights, got NaN or infinity in 'a.weight'; load sound weights first
    """
    if (bad := not_finite(weights)) is not None:
        raise ValueError(f"expected finite weights, got NaN or infinity in {bad!r}; load sound weights first")


def finite_losses(losses: Tensor, where: str, *, first: int = 0) -> None:
    """Raise ValueError if a loss of `losses` (N,) is not finite; its sequence is counted from `first`, in `where`.

    >>> finite_losses(torch.tensor([0.5, torch.nan]), "batch 3")
    Traceback (most recent call last):
    ValueError: expected finite losses, got nan for sequence 1 of batch 3; look for ...
    """
    losses = losses.detach()
    if not bool(torch.isfinite(losses).all()):
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        raise ValueError(
            f"expected finite losses, got {float(losses[bad])} for sequence {first + bad} of {where}; "
            "look for half precision overflowing, or for a division by 0 in loss="
        )
