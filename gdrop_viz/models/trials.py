"""Short inputs, cut from a batch or made up, on which a property of a model is tried."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gdrop_viz.base.state import preserved_modes, preserved_rng
from gdrop_viz.models.backbone import unwrapped
from gdrop_viz.models.differentiation import own_arithmetic
from gdrop_viz.models.hub import quiet_loggers

LENGTH = 16  # tokens of a sequence on which something is tried
_PADDING = 3
_SMALL = 64_000_000  # parameters, a quarter of a gigabyte in float32
# of a model that cannot do with what it got
FAILURES = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, AssertionError)


@contextmanager
def trying(model: nn.Module, *, precise: bool = False) -> Iterator[nn.Module]:
    """The model in eval mode without gradients; its modes, its config and the random numbers are put back.

    A `precise` trial of a small model in half precision is made on a copy in float32: a small effect of one token on
    another would be lost in rounding.
    """
    config: Any = getattr(unwrapped(model), "config", None)
    problem = getattr(config, "problem_type", None)
    with (
        own_arithmetic(),
        preserved_modes(model),
        preserved_rng(),
        torch.no_grad(),
        _no_function_mode(),
        quiet_loggers("transformers"),  # a model's remarks on its own loss are not the caller's concern
    ):
        try:
            yield _in_float32(model) if precise else model
        finally:
            if problem != getattr(config, "problem_type", None):  # a classifier's own loss writes it
                config.problem_type = problem


def two_rows(batch: Mapping[str, Any], *, length: int | None = LENGTH, alike: bool = False) -> dict[str, Any]:
    """Two sequences of equal length without padding, at most `length` tokens of each; {} where there are no tokens.

    Entries of the decoder, and the labels where they have a length of their own, are cut to `length` positions. With
    `alike` both are the longest sequence; otherwise they differ.
    """
    tokens = token_shape(batch)
    if tokens is None:
        return {}
    mask = batch.get("attention_mask")
    real = torch.ones(tokens, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.shape == tokens:
        real = mask.bool().cpu()
    longest = real.sum(1).argsort(descending=True, stable=True).tolist()
    rows = [longest[0], longest[0 if alike else min(1, tokens[0] - 1)]]
    n = int(real[rows].sum(1).min())
    n = n if length is None else min(length, n)
    columns = torch.stack([real[row].nonzero().squeeze(1)[:n] for row in rows])
    cut: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == tokens[0]:
            value = value[rows]
            if value.dim() >= 2 and value.shape[1] == tokens[1] and not name.startswith("decoder_"):
                value = value[torch.arange(2).unsqueeze(1), columns.to(value.device)]
            elif value.dim() >= 3 and name.endswith("mask"):  # (N, 1, T, T)
                for axis in range(2, value.dim()):
                    value = value.narrow(axis, 0, n) if value.shape[axis] == tokens[1] else value
            elif value.dim() >= 2 and (name.startswith("decoder_") or name == "labels"):
                value = value[:, :length]
        cut[name] = value
    if rows[0] == rows[1] and not alike and isinstance(cut.get("input_ids"), Tensor):
        cut["input_ids"] = torch.stack([cut["input_ids"][0], cut["input_ids"][1].flip(0)])
    return cut


def padded(rows: Mapping[str, Any], side: str, *, by: int = _PADDING, token: int = 0) -> dict[str, Any]:
    """The same sequences with `by` positions of padding on one `side`, "left" or "right"; labels are -100 there."""
    tokens = token_shape(rows)
    filling = {"input_ids": token, "labels": -100}
    wider = {}
    for name, value in rows.items():
        fits = tokens is not None and isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == tokens
        if fits and not name.startswith("decoder_"):
            more = torch.full_like(value[:, :1], filling.get(name, 0)).repeat_interleave(by, 1)
            value = torch.cat([more, value] if side == "left" else [value, more], 1)
        wider[name] = value
    return wider


def without_second(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The same sequences without their second token: marks at the start and at the end stay."""
    tokens = token_shape(rows)
    shorter = {}
    for name, value in rows.items():
        fits = tokens is not None and isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == tokens
        if fits and not name.startswith("decoder_"):
            value = torch.cat([value[:, :1], value[:, 2:]], 1)
        shorter[name] = value
    return shorter


def token_shape(batch: Mapping[str, Any]) -> torch.Size | None:
    """(N, T) of the batch's `input_ids` or `inputs_embeds`, None where it has neither."""
    for name in ("input_ids", "inputs_embeds"):
        value = batch.get(name)
        if isinstance(value, Tensor) and value.dim() >= 2:
            return value.shape[:2]
    return None


def other_words(model: nn.Module, ids: Tensor) -> Tensor:
    """Token ids of the same shape that differ from `ids` everywhere and are no special tokens."""
    config: Any = getattr(unwrapped(model), "config", None)
    named = vars(config) if config is not None else {}
    special = {value for name, value in named.items() if "token_i" in name and isinstance(value, int)}
    known = range(min(vocabulary_of(model) or int(ids.max()) + 2, 4096))
    words = torch.tensor([word for word in known if word not in special]).to(ids)
    chosen = words[(ids * 7 + 3) % len(words)]
    return torch.where(chosen == ids, words[(ids * 7 + 4) % len(words)], chosen)


def vocabulary_of(model: nn.Module) -> int | None:
    """The rows of the model's input embedding, else its configured vocabulary; None where neither is known."""
    inner: Any = unwrapped(model)
    try:
        embedding = inner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if isinstance(embedding, nn.Embedding):
        return embedding.num_embeddings
    config: Any = getattr(inner, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(config, "vocab_size", None)
    return size if isinstance(size, int) else None


def _in_float32(model: nn.Module) -> nn.Module:
    parameters = list(model.parameters())
    is_half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters)
    if not is_half or sum(parameter.numel() for parameter in parameters) > _SMALL:
        return model
    try:
        return copy.deepcopy(model).float()
    except (RuntimeError, TypeError, ValueError):  # quantised weights cannot be converted
        return model


def _no_function_mode() -> Any:
    disabled = getattr(torch._C, "DisableTorchFunction", None)
    return disabled() if disabled is not None else nullcontext()
