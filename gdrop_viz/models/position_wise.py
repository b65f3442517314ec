"""Position-wise end of a model: the modules that can be fed the positions that are read, and no others.

Heads are position-wise, and in a post-norm encoder (BERT) so is what follows the last attention: feed-forward, norms
and head can be fed the predicted positions alone, a sixth of them in masked language modelling, and in a classifier
that reads the first position, that one. The module is found by trying, not by name or class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gdrop_viz.base.nested import mapped, tensors_in
from gdrop_viz.base.state import preserved_modes

# what the Fisher tracer reads on gathered rows: which of them belong to which sequence
OFFSETS = "_sequence_offsets"

_LENGTH = 16  # tokens of each of the two sequences on which a module is tried
_FAILURES = (RuntimeError, ValueError, IndexError)  # of a model that cannot do with the rows it got
_Change = Callable[[Tensor], Tensor]
_found: WeakKeyDictionary[nn.Module, nn.Module | None] = WeakKeyDictionary()


@contextmanager
def only_at(
    model: nn.Module,
    inputs: Mapping[str, Any],
    predicted: Tensor,
    offsets: tuple[int, ...],
    *,
    logits: Callable[[Any], Tensor],
    inside: bool,
) -> Iterator[bool]:
    """Run the position-wise end of `model` on the rows of `predicted` (N, T) only: its logits become (1, M, V).

    offsets: rows of sequence n are offsets[n] .. offsets[n + 1] - 1 of the M.
    logits: picks the logits from the model's output.
    inside: also look inside the backbone, not only at the head (worth its price where few positions are predicted).

    Yields whether it will happen: where no module passes the trial, everything is fed.
    """
    shape = predicted.shape
    module = _found_once(model, shape, lambda: _first_position_wise(model, inputs, shape, logits, inside))
    if module is None:
        yield False
        return

    def gather(tensor: Tensor) -> Tensor:
        rows = tensor[predicted.to(tensor.device)].unsqueeze(0)  # accelerate may have put the module elsewhere
        setattr(rows, OFFSETS, offsets)
        return rows

    with _inputs_changed(module, shape, gather):
        yield True


@contextmanager
def only_first(model: nn.Module, inputs: Mapping[str, Any], *, logits: Callable[[Any], Tensor]) -> Iterator[None]:
    """Run the position-wise end of a classifier on the first positions of each sequence, if it reads only the first."""
    of_rows = (value.shape for value in inputs.values() if isinstance(value, Tensor) and value.dim() == 2)
    shape = next(of_rows, torch.Size((0, 0)))
    module = _found_once(model, shape, lambda: _first_that_needs_one(model, inputs, shape, logits))
    if module is None:
        yield
        return
    with _inputs_changed(module, shape, _first_of_each):
        yield


def _found_once(model: nn.Module, shape: torch.Size, find: Callable[[], nn.Module | None]) -> nn.Module | None:
    """What `find` gives for this model, looked for on its first batch of enough positions to try with."""
    if model not in _found:
        if shape[1] < 4:
            return None
        _found[model] = find()
    return _found[model]


def _first_position_wise(
    model: nn.Module, inputs: Mapping[str, Any], shape: torch.Size, logits: Callable[[Any], Tensor], inside: bool
) -> nn.Module | None:
    """The earliest module whose input suffices at single positions; None if not even the head's does."""
    few, shape = _two_short_sequences(inputs, shape)
    heads = _behind_the_backbone(model)
    with preserved_modes(model), torch.no_grad(), _no_function_mode():
        called, full = _calls(model, few, shape, logits)
        first = next((k for k, module in enumerate(called) if module in heads), None)
        if first is None or full.shape[:2] != shape:
            return None
        sequence, position = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
        rows = ((sequence + position) % 3 == 0).to(full.device) & full.isfinite().all(-1)
        return _earliest(
            lambda: model(**few),
            called[: first + 1] if inside else called[first : first + 1],
            rows,
            full[rows],
            of_all=lambda outputs: logits(outputs)[rows],
            some=lambda tensor: tensor[rows.to(tensor.device)].unsqueeze(0),
            of_some=lambda outputs: logits(outputs).squeeze(0),
        )


def _first_that_needs_one(
    model: nn.Module, inputs: Mapping[str, Any], shape: torch.Size, logits: Callable[[Any], Tensor]
) -> nn.Module | None:
    """The earliest module of a classifier whose input suffices at the first position of each sequence, or None."""
    few, shape = _two_short_sequences(inputs, shape)
    # with padding, a classifier that reads the last word could look like one that reads the first
    few = _without_padding(model, few)
    with preserved_modes(model), torch.no_grad(), _no_function_mode():
        try:
            called, full = _calls(model, few, shape, logits)
        except _FAILURES:
            return None  # such as a classifier that looks for an end mark, which the shorter sequences lack
        rows = torch.arange(shape[1], device=full.device).expand(shape) == 0
        return _earliest(lambda: model(**few), called, rows, full, of_all=logits, some=_first_of_each, of_some=logits)


def _earliest(
    forward: Callable[[], Any],
    called: list[nn.Module],
    rows: Tensor,
    expected: Tensor,
    *,
    of_all: Callable[[Any], Tensor],
    some: _Change,
    of_some: Callable[[Any], Tensor],
) -> nn.Module | None:
    """The earliest of the modules `called` (in order) that can be fed `some` of its rows, those of `rows` (N, T).

    What was `expected` at full input must come out of it twice: unchanged by NaN at all other positions (of_all), and
    from these rows alone (of_some).
    """

    def poison(tensor: Tensor) -> Tensor:
        return tensor.masked_fill(~rows.unsqueeze(-1).to(tensor.device), torch.nan)

    def answer(module: nn.Module, change: _Change, of: Callable[[Any], Tensor]) -> Tensor | None:
        with _inputs_changed(module, rows.shape, change):
            try:
                return of(forward())
            except _FAILURES:
                return None

    found = None
    for module in reversed(called):
        poisoned = answer(module, poison, of_all)
        if poisoned is None or not torch.equal(poisoned, expected):
            break  # positions mix here, and so they do from any earlier module on
        alone = answer(module, some, of_some)
        if alone is None or alone.shape != expected.shape:
            continue
        # another blocking of the same matrix product may round differently
        if torch.allclose(alone, expected, rtol=1e-2, atol=1e-3):
            found = module
    return found


def _first_of_each(tensor: Tensor) -> Tensor:
    # two: a single position would be spread over all by a residual connection that has them all
    return tensor[:, :2]


@contextmanager
def _inputs_changed(module: nn.Module, shape: torch.Size, change: _Change) -> Iterator[None]:
    """While this is open, every (N, T, width) tensor among the module's arguments is changed first."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return mapped((args, kwargs), lambda tensor: change(tensor) if _has_rows(tensor, shape) else tensor)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _calls(
    model: nn.Module, few: Mapping[str, Any], shape: torch.Size, logits: Callable[[Any], Tensor]
) -> tuple[list[nn.Module], Tensor]:
    """The modules that get (N, T, width) tensors, in the order of their first call, and the logits."""
    called: dict[nn.Module, None] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(_has_rows(tensor, shape) for tensor in tensors_in((args, kwargs))):
            called.setdefault(module)

    handles = [
        module.register_forward_pre_hook(watch, with_kwargs=True) for module in model.modules() if module is not model
    ]
    try:
        full = logits(model(**few))
    finally:
        for handle in handles:
            handle.remove()
    return list(called), full


def _behind_the_backbone(model: nn.Module) -> set[nn.Module]:
    """The modules that do not belong to the backbone: `cls`, `lm_head`, `vocab_transform`, ..."""
    backbone = getattr(model, "base_model", model)
    if backbone is not model:
        return set(model.modules()) - set(backbone.modules()) - {model}
    # T5: encoder, decoder and head side by side
    output = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {output} if isinstance(output, nn.Module) else set()


def _two_short_sequences(inputs: Mapping[str, Any], shape: torch.Size) -> tuple[dict[str, Any], torch.Size]:
    few: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == shape[0]:
            value = value[[0, min(1, shape[0] - 1)]]
            if value.dim() == 2 and value.shape[1] == shape[1]:
                value = value[:, :_LENGTH]
        few[name] = value
    return few, torch.Size((2, min(_LENGTH, shape[1])))


def _without_padding(model: nn.Module, few: Mapping[str, Any]) -> dict[str, Any]:
    """The same inputs with a word in the place of each padding token, and every position attended to."""
    few = dict(few)
    if isinstance(few.get("attention_mask"), Tensor):
        few["attention_mask"] = torch.ones_like(few["attention_mask"])
    padding, ids = getattr(getattr(model, "config", None), "pad_token_id", None), few.get("input_ids")
    if isinstance(padding, int) and isinstance(ids, Tensor):
        words = ids[ids != padding]
        few["input_ids"] = ids.masked_fill(ids == padding, int(words[0]) if len(words) else padding)
    return few


def _has_rows(tensor: Tensor, shape: torch.Size) -> bool:
    return tensor.dim() == 3 and tensor.shape[:2] == shape


def _no_function_mode() -> Any:
    disabled = getattr(torch._C, "DisableTorchFunction", None)
    return disabled() if disabled is not None else nullcontext()
