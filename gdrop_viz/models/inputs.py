"""Inputs and logits of a model: what its forward takes, how long a text may be, where its logits are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gdrop_viz.models.backbone import unwrapped


def accepted(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's inputs: the batch without its labels, no cache kept."""
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    if hasattr(unwrapped(model), "config"):
        parameters = forward_parameters(model)
        if "use_cache" in parameters:
            inputs["use_cache"] = False
        if "return_dict" in parameters:
            inputs["return_dict"] = True
    return inputs


def forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of the forward of the model inside all wrappers; those that **kwargs pass on too."""
    inner = unwrapped(model)
    parameters = dict(inspect.signature(inner.forward).parameters)
    latest = parameters
    for kind in type(inner).__mro__[1:]:  # class Mine(GPT2LMHeadModel): def forward(self, *args, **kwargs)
        if not takes_any(latest) or kind is nn.Module:
            break
        if "forward" in vars(kind):
            latest = dict(inspect.signature(vars(kind)["forward"]).parameters)
            parameters = {**latest, **parameters}
    return parameters


def takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function with these parameters takes others by name."""
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's output.

    Raises
    ------
    ValueError
        If the output has none.
    """
    for name in ("logits", "prediction_logits"):
        if isinstance(getattr(outputs, name, None), Tensor):
            return getattr(outputs, name)
    raise ValueError(
        f"Expected a model output with logits, got {type(outputs).__name__}; "
        "pass loss=callable(outputs, batch) -> (N,) for other models."
    )


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether labels belong to a decoder of their own (T5, BART); not so in a head on the encoder alone."""
    config = getattr(unwrapped(model), "config", None)
    return bool(getattr(config, "is_encoder_decoder", False)) and "decoder_input_ids" in forward_parameters(model)


def decoder_inputs(model: nn.Module, labels: Tensor) -> Tensor:
    """Return the decoder's inputs for `labels` (N, U), as the model itself shifts them.

    By its method, else by the function of the file that defines its class. Both get a copy: some write into it.

    Raises
    ------
    ValueError
        If the model has neither.
    """
    inner: Any = unwrapped(model)
    labels = labels.clone()
    if hasattr(inner, "prepare_decoder_input_ids_from_labels"):
        return inner.prepare_decoder_input_ids_from_labels(labels=labels)
    for kind in type(inner).__mro__:
        shift = getattr(sys.modules.get(kind.__module__), "shift_tokens_right", None)
        if shift is not None:
            _, *settings = inspect.signature(shift).parameters
            return shift(labels, *(getattr(inner.config, name) for name in settings))
    raise ValueError(
        f"{type(inner).__name__} does not say how its labels become decoder_input_ids; put decoder_input_ids into the "
        "batches, or pass loss="
    )


def longest_input(model: nn.Module) -> int | None:
    """Return how many tokens the model's positions can tell apart, or None if nothing limits them (T5).

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> longest_input(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=32)))
    32
    """
    config: Any = getattr(unwrapped(model), "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text_config, "max_position_embeddings", None)]
    # a model that reads pictures too has other tables of positions beside those of its text
    for name, module in model.named_modules() if text_config is config else ():
        # RoBERTa counts positions from padding_idx + 1, so its table has rows that no token reaches
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def padding_sides(batch: Mapping[str, Any]) -> set[str]:
    """Return on which sides, "left" or "right", sequences of the batch are padded, by its `attention_mask`."""
    mask = batch.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.shape[1]:
        return set()
    first, last = (mask[:, [0, -1]] == 0).any(0).tolist()
    return {side for side, there in (("left", first), ("right", last)) if there}


def positions_from(mask: Tensor) -> Tensor:
    """Return position ids (N, T) that count the tokens of each sequence from 0, whatever padding stands before them.

    >>> import torch
    >>> positions_from(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]))
    tensor([[0, 0, 0, 1],
            [0, 1, 2, 2]])
    """
    return (mask.long().cumsum(1) - 1).clamp(min=0)
