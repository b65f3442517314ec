"""Observed dropout: the calls that a training-mode forward makes, with their rates and modules.

Nothing is assumed about the architecture: a `TorchFunctionMode` sees every call of `F.dropout`, fused attention
and their kin, forward hooks keep the stack of modules that are running, and the parameters seen among the arguments
of the calls tell what was computed before what.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gdrop_viz.base.state import preserved_modes, preserved_rng
from gdrop_viz.sites.alternatives import Alternatives
from gdrop_viz.sites.calls import OWN_MASK, DropoutCall, Observation, Origin, ParameterUse, Running
from gdrop_viz.sites.dummy import dummy_batches


def _plain_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
    """Only the signature that the functional dropouts share."""


def _torch_dropout(input: Tensor, p: float, train: bool) -> None:
    """Only the signature of the builtin `torch.dropout`."""


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """Only the signature of the builtin, which `inspect` cannot read."""


_PLAIN = inspect.signature(_plain_dropout)
SDPA_SIGNATURE = inspect.signature(_sdpa)
# where each function is looked up when an observation starts: someone may have wrapped it in the meantime
_FUNCTIONS: list[tuple[Any, str, inspect.Signature]] = [
    *((F, name, _PLAIN) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")),
    *((F, name, _PLAIN) for name in ("alpha_dropout", "feature_alpha_dropout")),
    (F, "scaled_dot_product_attention", SDPA_SIGNATURE),
    (F, "multi_head_attention_forward", inspect.signature(F.multi_head_attention_forward)),
    (torch, "dropout", inspect.signature(_torch_dropout)),
]

_ORIGIN = "_gdrop_viz_origin"  # an attribute of the tensors: it lives as long as they do

# with these a module can draw a mask itself
_DRAWS = {
    torch.bernoulli,
    torch.rand,
    torch.rand_like,
    torch.randn,
    torch.randn_like,
    Tensor.bernoulli,
    Tensor.bernoulli_,
    Tensor.normal_,
    Tensor.uniform_,
}


def register_dropout_function(module: Any, name: str) -> None:
    """Let the observer see calls of `module.name(input, p, training)`, which must honour `__torch_function__`."""
    _FUNCTIONS.append((module, name, _PLAIN))


class _Observer(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.seen = Observation()
        self.alternatives = Alternatives(model)
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.stack: list[Running] = []
        self.counts: list[Counter[str]] = []
        self.drew: list[bool] = []
        self.invocations = 0
        self.time = 0
        self.functions = {getattr(module, name): (name, signature) for module, name, signature in _FUNCTIONS}

    def enter(self, path: str, args: tuple, kwargs: dict[str, Any]) -> None:
        self.invocations += 1
        running = Running(path, self.invocations)
        if self.stack:
            inputs = self.origin((*args, *kwargs.values())).all
            self.alternatives.entered(running, self.stack[-1], args, kwargs, inputs)
        self.stack.append(running)
        self.counts.append(Counter())
        self.drew.append(False)

    def leave(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        if self.drew[-1] and _could_be_dropout(module, inputs, output):
            self.record(OWN_MASK, math.nan, self.origin(inputs), _holds_probabilities(inputs[0]))
        self.alternatives.run_missed(self.stack[-1], self.seen)
        self.stack.pop()
        self.counts.pop()
        self.drew.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.stack:
            return func(*args, **kwargs)
        if func is torch.rand and _draws_one_number(args, kwargs):
            # LayerDrop skips a layer if this number is small; a skipped layer would hide its dropouts
            return torch.ones_like(func(*args, **kwargs))
        values = (*args, *kwargs.values())
        if func in self.functions:
            origin = self.origin(values)
            self._record_dropout(*self.functions[func], args, kwargs, origin)
            result = func(*args, **kwargs)
            self._set_origin(result, Origin(origin.all))
            return result
        if func in _DRAWS:
            self.drew[-1] = True
        result = func(*args, **kwargs)
        changed = args[0] if func is Tensor.__setitem__ else result
        if _holds_tensor(changed):  # reading a parameter's dtype or shape is no use of it
            origin = self.origin(values)
            for name in self._parameters_in(values):
                self.time += 1
                self.seen.uses.append(ParameterUse(name, tuple(self.stack), self.time))
                origin |= Origin(1 << self.time, 1 << self.time)
            self._set_origin(changed, origin)
        return result

    def origin(self, values: Any) -> Origin:
        origin = Origin()
        for value in values:
            if isinstance(value, (list, tuple)):
                origin |= self.origin(value)
            elif isinstance(value, Tensor):
                origin |= getattr(value, _ORIGIN, origin)
        return origin

    def _set_origin(self, result: Any, origin: Origin) -> None:
        if isinstance(result, Tensor):
            # a tensor that came from no parameter may be the caller's own
            if origin.all and id(result) not in self.names:
                setattr(result, _ORIGIN, origin)
        elif isinstance(result, (list, tuple)):
            for part in result:
                self._set_origin(part, origin)

    def _record_dropout(
        self, name: str, signature: inspect.Signature, args: tuple, kwargs: dict, origin: Origin
    ) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        rate = float(given["dropout_p"] if "dropout_p" in given else given["p"])
        if not given.get("training", given.get("train", True)):
            rate = 0.0
        self.record(name, rate, origin, "dropout_p" in given or _holds_probabilities(given["input"]))

    def record(self, function: str, rate: float, origin: Origin, on_probabilities: bool) -> None:
        self.time += 1
        index = self.counts[-1][function]
        self.counts[-1][function] += 1
        self.seen.calls.append(
            DropoutCall(function, index, rate, tuple(self.stack), self.time, on_probabilities, origin)
        )

    def _parameters_in(self, values: Any) -> Iterator[str]:
        for value in values:
            if isinstance(value, (list, tuple)):
                yield from self._parameters_in(value)
            elif id(value) in self.names:
                yield self.names[id(value)]


def _draws_one_number(args: tuple, kwargs: dict) -> bool:
    size = kwargs.get("size", args[0] if args else None)
    return isinstance(size, (tuple, list)) and len(size) == 0


def _could_be_dropout(module: nn.Module, inputs: tuple, output: Any) -> bool:
    """Whether a module has no parameters, no parts, and one tensor in and one of the same shape out."""
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None or not inputs:
        return False
    x = inputs[0]
    both = isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape == output.shape
    return both and x.dim() > 0 and x.is_floating_point()


def _holds_tensor(result: Any) -> bool:
    return isinstance(result, Tensor) or (isinstance(result, (tuple, list)) and any(map(_holds_tensor, result)))


def _holds_probabilities(x: Tensor) -> bool:
    """Whether `x` holds attention probabilities: distributions over its last axis.

    A fully masked row may be zero, and with an attention sink (GPT-OSS) each row of a four-dimensional tensor lacks
    the sink's share.
    """
    if x.dim() < 3 or not x.is_floating_point() or x.shape[-1] < 2:
        return False
    totals = x.float().sum(dim=-1)
    whole = (totals - 1).abs() < 1e-2
    part = (totals >= 0) & (totals < 1) if x.dim() == 4 else totals == 0
    return bool((x >= 0).all() and (whole | part).all() and (totals > 0).any())


def _enter(observer: _Observer, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    observer.enter(path, args, kwargs)


@contextmanager
def _module_stack(model: nn.Module, observer: _Observer) -> Iterator[None]:
    handles = []
    try:
        for path, module in model.named_modules():
            enter = functools.partial(_enter, observer, path)
            handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(observer.leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _opaque_attention(observer: _Observer) -> Iterator[None]:
    """See the rate given to attention kernels that call no function of torch, such as FlashAttention.

    `transformers` hands them the rate as `dropout`; they are wrapped in its table for the time of the observation.
    """
    if "transformers.modeling_utils" not in sys.modules:
        yield
        return
    table = sys.modules["transformers.modeling_utils"].ALL_ATTENTION_FUNCTIONS

    def seeing(function: Callable[..., Any]) -> Callable[..., Any]:
        def attention(*args: Any, dropout: float = 0.0, **kwargs: Any) -> Any:
            before = len(observer.seen.calls)
            result = function(*args, dropout=dropout, **kwargs)
            if len(observer.seen.calls) == before and observer.stack:
                tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
                observer.record("attention", float(dropout), observer.origin(tensors), True)
            return result

        return attention

    local = dict(table._local_mapping)
    try:
        for name, function in list(table.items()):
            if name != "sdpa":
                table[name] = seeing(function)
        yield
    finally:
        table._local_mapping.clear()
        table._local_mapping.update(local)


@contextmanager
def _preserved_state(model: nn.Module) -> Iterator[None]:
    """Give every module its attributes and buffers back, the same objects with the same values.

    Running statistics move in training mode, and some models put a new tensor in a buffer's place (I-BERT), or note
    beside it what it holds.
    """
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, value in values:
            buffer.copy_(value)


def observed(model: nn.Module, batch: Mapping[str, Any] | None = None, *, seed: int = 0) -> Observation:
    """Run one training-mode forward of `model` without gradients and return what was seen.

    `batch`: keyword arguments of the forward (default: a tiny dummy batch). The model's modes, its buffers and all
    random generators are as before afterwards.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25)).eval()
    >>> [call.rate for call in observed(net, {"input": torch.ones(1, 4)}).calls]
    [0.25]
    """
    first_error: Exception | None = None
    for inputs in [batch] if batch is not None else dummy_batches(model):
        observer = _Observer(model)
        try:
            with (
                torch.no_grad(),
                preserved_rng(seed),
                preserved_modes(model, training=True),
                _preserved_state(model),
                _module_stack(model, observer),
                _opaque_attention(observer),
                observer,
            ):
                model(**inputs)
            return observer.seen
        except Exception as error:
            first_error = first_error or error
    kind = "the given batch" if batch is not None else "a dummy batch"
    raise ValueError(
        f"expected {type(model).__name__} to run a training-mode forward on {kind}, but it raised "
        f"{type(first_error).__name__}: {first_error}; pass batch= with inputs that the model accepts"
    ) from first_error
