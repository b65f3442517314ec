"""Inputs of a model: how many tokens its positions tell apart."""

from __future__ import annotations

from torch import nn


def longest_input(model: nn.Module) -> int | None:
    """Return how many tokens the model's positions can tell apart, or None if nothing limits them (T5).

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> longest_input(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=32)))
    32
    """
    limits = []
    config = getattr(model, "config", None)
    if config is not None:
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        limits.append(getattr(config, "max_position_embeddings", None))
    for name, module in model.named_modules():
        # RoBERTa counts positions from padding_idx + 1, so its table has rows that no token reaches
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)
