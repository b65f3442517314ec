"""Position-wise end of a model: the modules that can be fed the positions that are read, and no others.

Heads are position-wise, and in a post-norm encoder (BERT) so is what follows the last attention: feed-forward, norms
and head can be fed the predicted positions alone, a sixth of them in masked language modelling, and in a classifier
that reads the first position, that one. The module is found by trying, not by name or class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from gdrop_viz.base.nested import mapped, tensors_in
from gdrop_viz.models.facts import facts_of
from gdrop_viz.models.trials import trying

# what the Fisher tracer reads on gathered rows: which of them belong to which sequence
OFFSETS = "_sequence_offsets"

_LENGTH = 16  # tokens of each of the two sequences on which a module is tried
_FAILURES = (RuntimeError, ValueError, IndexError)  # of a model that cannot do with the rows it got
_FOUND = "position-wise end"  # among a model's facts: the module, or None
_Change = Callable[[Tensor], Tensor]


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


def forget_end(model: nn.Module) -> None:
    """Feed everything to this model from now on: its end was not position-wise on some batch."""
    facts_of(model)[_FOUND] = None


def _found_once(model: nn.Module, shape: torch.Size, find: Callable[[], nn.Module | None]) -> nn.Module | None:
    """What `find` gives for this model, looked for on its first batch of enough positions to try with."""
    facts = facts_of(model)
    if _FOUND not in facts:
        if shape[1] < 4:
            return None
        facts[_FOUND] = find()
    return facts[_FOUND]


@dataclass(frozen=True)
class _Trial:
    """A forward pass whose result is known, with the rows (N, T) of its position-wise end that should suffice for it.

    `expected` must come out again unchanged when all other rows are NaN (read by `of_all`), and, up to rounding, when
    the end is fed `some` of its rows alone (read by `of_some`).
    """

    forward: Callable[[], Any]
    rows: Tensor
    expected: Tensor
    of_all: Callable[[Any], Tensor]
    some: _Change
    of_some: Callable[[Any], Tensor]

    def unmoved(self, module: nn.Module) -> bool:
        def poison(tensor: Tensor) -> Tensor:
            return tensor.masked_fill(~self.rows.unsqueeze(-1).to(tensor.device), torch.nan)

        found = self._answer(module, poison, self.of_all)
        return found is not None and torch.equal(found, self.expected)

    def suffices(self, module: nn.Module) -> bool:
        found = self._answer(module, self.some, self.of_some)
        if found is None or found.shape != self.expected.shape:
            return False
        # another blocking of the same matrix product may round differently
        return torch.allclose(found, self.expected, rtol=1e-2, atol=1e-3)

    def _answer(self, module: nn.Module, change: _Change, of: Callable[[Any], Tensor]) -> Tensor | None:
        with _inputs_changed(module, self.rows.shape, change):
            try:
                return of(self.forward())
            except _FAILURES:
                return None


def _first_position_wise(
    model: nn.Module, inputs: Mapping[str, Any], shape: torch.Size, logits: Callable[[Any], Tensor], inside: bool
) -> nn.Module | None:
    """The earliest module whose input suffices at single positions; None if not even the head's does."""
    few, shape = _two_short_sequences(inputs, shape)
    few = _ending_in_padding(few, shape)
    heads = _behind_the_backbone(model)
    with trying(model):
        called, full = _calls(model, few, shape, logits)
        first = next((k for k, module in enumerate(called) if module in heads), None)
        if first is None or full.shape[:2] != shape:
            return None
        sequence, position = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
        # more rows than a sequence has positions, none of them padding
        rows = ((sequence + position) % 4 != 0).to(full.device) & full.isfinite().all(-1)
        mask = few.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == shape:
            rows &= mask.to(rows.device) != 0

        def of_rows(outputs: Any) -> Tensor:
            found = logits(outputs)
            return found[0] if found.dim() == 3 and len(found) == 1 else found

        trial = _Trial(
            lambda: model(**few),
            rows,
            full[rows],
            of_all=lambda outputs: logits(outputs)[rows],
            some=lambda tensor: tensor[rows.to(tensor.device)].unsqueeze(0),
            of_some=of_rows,
        )
        return _earliest([trial], called[: first + 1] if inside else called[first : first + 1])


def _first_that_needs_one(
    model: nn.Module, inputs: Mapping[str, Any], shape: torch.Size, logits: Callable[[Any], Tensor]
) -> nn.Module | None:
    """The earliest module of a classifier whose input suffices at the first position of each sequence, or None."""
    few, shape = _two_short_sequences(inputs, shape)
    # with padding, a classifier that reads the last word could look like one that reads the first; without, a mask that
    # is cut together with its rows would not be missed
    whole = _without_padding(model, few)
    trials: list[_Trial] = []
    called: list[nn.Module] = []
    with trying(model):
        for few in (whole, _ending_in_padding(whole, shape)):
            try:
                called, full = _calls(model, few, shape, logits)
            except _FAILURES:
                return None  # such as a classifier that looks for an end mark, which the shorter sequences lack
            rows = torch.arange(shape[1], device=full.device).expand(shape) == 0
            forward = partial(model, **few)
            trials.append(_Trial(forward, rows, full, of_all=logits, some=_first_of_each, of_some=logits))
        return _earliest(trials, called)


def _earliest(trials: Sequence[_Trial], called: Sequence[nn.Module]) -> nn.Module | None:
    """The earliest of the modules `called` (in order) that can be fed a part of its rows in every trial."""
    found = None
    for module in reversed(called):
        if not all(trial.unmoved(module) for trial in trials):
            break  # positions mix here, and so they do from any earlier module on
        if all(trial.suffices(module) for trial in trials):
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


def _ending_in_padding(few: Mapping[str, Any], shape: torch.Size) -> dict[str, Any]:
    """The same inputs; where there is an attention mask, it leaves out the end of the second sequence."""
    mask = few.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.shape != shape:
        return dict(few)
    mask = mask.clone()
    mask[1, -max(1, shape[1] // 4) :] = 0
    return {**few, "attention_mask": mask}


def _has_rows(tensor: Tensor, shape: torch.Size) -> bool:
    return tensor.dim() == 3 and tensor.shape[:2] == shape
