"""Gaussian dropout: multiplicative noise in place of dropout, at attention probabilities too."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from gdrop_viz.base.checks import few
from gdrop_viz.dropout.schedule import DropoutSchedule, uniform_dropout
from gdrop_viz.models.backbone import backbone_of
from gdrop_viz.sites.observation import SDPA_SIGNATURE, observed, register_dropout_function
from gdrop_viz.sites.sites import LocatedSite, locate

_REPLACED = ("dropout", "scaled_dot_product_attention", "gaussian_noise")


def gaussian_noise(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    r"""Multiply each element by its own draw from $N(1, p / (1 - p))$; do nothing unless `training`.

    Mean and variance of the factor are those of dropout with probability `p` and the usual rescaling by
    $1 / (1 - p)$ (Srivastava et al. 2014, section 10).

    >>> x = torch.ones(100_000)
    >>> bool((gaussian_noise(x, 0.2).var() - 0.25).abs() < 0.01), gaussian_noise(x, 0.2, training=False) is x
    (True, True)
    """
    if has_torch_function_unary(input):  # lets the observer see the call
        return handle_torch_function(gaussian_noise, (input,), input, p=p, training=training)
    if not training or p == 0:
        return input
    return input * torch.randn_like(input).mul_(math.sqrt(p / (1 - p))).add_(1)


register_dropout_function(sys.modules[__name__], "gaussian_noise")


class GaussianDropout:
    """Gaussian noise at work in a model, until `remove()` or the end of its `with` block.

    Attributes
    ----------
    schedule
        The rate of every site; the noise at a site with rate `p` has variance `p / (1 - p)`.
    """

    def __init__(self, schedule: DropoutSchedule, undo: Callable[[], None]) -> None:
        self.schedule = schedule
        self._undo: Callable[[], None] | None = undo

    def remove(self) -> None:
        """Give the model its own dropout and rates back; a second call does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> GaussianDropout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def gaussian_dropout(
    model: nn.Module, rate: float | DropoutSchedule = 0.1, *, batch: Mapping[str, Any] | None = None
) -> GaussianDropout:
    r"""Replace the dropout of the pretrained body by multiplicative noise $N(1, p / (1 - p))$, off at evaluation.

    Every site that a schedule sets is replaced, also those written with the functional form and those inside fused
    attention: there the modules compute the attention step by step while the noise is on, which is slower and is
    said in a warning. The head and adapters keep their dropout. That each site really makes noise is verified in a
    training-mode forward.

    Parameters
    ----------
    model
        Any model; its training and evaluation modes decide, as for dropout, when there is noise.
    rate
        One `p` for all sites, or a schedule.
    batch
        Keyword arguments of the forward in which the sites are found, by default a tiny dummy batch.

    Returns
    -------
    A handle: `remove()` it, or use it in a `with` statement.

    Raises
    ------
    ValueError
        If the rate is no probability, the model makes noise already, or a site uses a function that has no Gaussian
        form here.
    RuntimeError
        If a site kept its dropout; the model is as before.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    >>> with gaussian_dropout(net, 0.2, batch={"input": torch.ones(1, 4)}):
    ...     x = net[1](torch.ones(100_000))  # a fresh module is in training mode
    >>> bool((x == 0).any()), bool((x.var() - 0.25).abs() < 0.01)
    (False, True)
    """
    schedule = rate if isinstance(rate, DropoutSchedule) else uniform_dropout(model, rate, batch=batch)
    body = backbone_of(model)
    modules = dict(body.model.named_modules())
    if any(isinstance(vars(module).get("forward"), _WithNoise) for module in modules.values()):
        raise ValueError("expected a model with ordinary dropout, got one with Gaussian noise; remove() that first")
    located = [place for place in locate(model, batch=batch) if place.site.name in schedule.rates]
    functions = {function: place.site.name for place in located for _, function, _ in place.keys}
    unknown = [f"{site} ({function})" for function, site in functions.items() if function not in _REPLACED]
    if unknown:
        raise ValueError(f"expected sites of F.dropout or scaled_dot_product_attention, got {few(unknown)}")
    restore_rates = schedule.set_rates(model, batch)
    wrapped = {path: modules[path] for place in located for path, _, _ in place.keys}
    before = {path: vars(module).get("forward") for path, module in wrapped.items()}

    def undo() -> None:
        for path, module in wrapped.items():
            if before[path] is None:
                vars(module).pop("forward", None)
            else:
                module.forward = before[path]
        restore_rates()

    try:
        for module in wrapped.values():
            module.forward = _WithNoise(module.forward)
        _verify(body.model, located, schedule, batch)
    except BaseException:
        undo()
        raise
    if "scaled_dot_product_attention" in functions:
        warnings.warn(
            "fused attention cannot make Gaussian noise: while it is on, the attention modules in training compute "
            "their probabilities step by step, which is slower",
            stacklevel=2,
        )
    return GaussianDropout(schedule, undo)


def _verify(
    model: nn.Module, located: list[LocatedSite], schedule: DropoutSchedule, batch: Mapping[str, Any] | None
) -> None:
    noise: dict[str, set[float]] = {}
    for call in observed(model, batch).calls:
        if call.function == "gaussian_noise":
            noise.setdefault(call.path, set()).add(call.rate)
    silent = [
        place.site.name
        for place in located
        if (rate := schedule.rates[place.site.name]) > 0
        and any(rate not in noise.get(key[0], ()) for key in place.keys)
    ]
    if silent:
        raise RuntimeError(
            f"expected Gaussian noise at every site, but {few(silent)} made none; the model is as before"
        )


class _WithNoise:
    """A module's forward, run while dropout means noise (an object, so that a copied model keeps it)."""

    __wrapped__: Callable[..., Any]  # set by update_wrapper

    def __init__(self, forward: Callable[..., Any]) -> None:
        functools.update_wrapper(self, forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _NoiseMode():
            return self.__wrapped__(*args, **kwargs)


class _NoiseMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return _noise_for_dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            given = SDPA_SIGNATURE.bind(*args, **kwargs)
            given.apply_defaults()
            if given.arguments["dropout_p"] > 0:
                return _attention(**given.arguments)
        return func(*args, **kwargs)


def _noise_for_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return gaussian_noise(input, p, training)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """`F.scaled_dot_product_attention` by its definition, with noise where it would drop."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        scores = scores + attn_mask
        attn_mask = attn_mask > -math.inf
    if attn_mask is None:
        probabilities = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    else:
        # a row that may attend to nothing gets zeros, as from the fused kernels
        nothing = ~attn_mask.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~(attn_mask | nothing), -math.inf).masked_fill(nothing, 0.0)
        probabilities = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        probabilities = probabilities.masked_fill(nothing, 0.0)
    return gaussian_noise(probabilities.to(value.dtype), dropout_p) @ value
