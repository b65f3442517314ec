"""Dummy batches: tiny inputs that a model accepts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def dummy_batches(model: nn.Module) -> list[dict[str, Tensor]]:
    """Tiny inputs to try in turn: a sentence, the same as one of several choices, and the model's own dummies."""
    config = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None) or 8
    end = getattr(config, "eos_token_id", None)
    ids = [min(3 + i, vocabulary - 1) for i in range(4)]
    if isinstance(end, int) and end < vocabulary:
        ids.append(end)  # sequence classifiers of the BART and T5 kind read the state at the end token
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    words = torch.tensor([ids], device=device)
    sentence = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    choices = {name: value.unsqueeze(1) for name, value in sentence.items()}
    candidates = [sentence]
    if getattr(config, "is_encoder_decoder", False):
        candidates.insert(0, {**sentence, "decoder_input_ids": words})
    candidates.append(choices)
    own = getattr(model, "dummy_inputs", None)
    if isinstance(own, dict):
        candidates.append(
            {name: value.to(device) if isinstance(value, Tensor) else value for name, value in own.items()}
        )
    features = _speech_features(model, device)
    if features is not None:
        candidates.insert(
            0, {**features, "decoder_input_ids": words} if "decoder_input_ids" in candidates[0] else features
        )
    return candidates


def _speech_features(model: nn.Module, device: torch.device) -> dict[str, Tensor] | None:
    """Log-mel features for models of the Whisper kind."""
    config: Any = getattr(model, "config", None)
    if getattr(model, "main_input_name", "") != "input_features" or not hasattr(config, "num_mel_bins"):
        return None
    frames = 2 * getattr(config, "max_source_positions", 4)
    return {"input_features": torch.zeros(1, config.num_mel_bins, frames, device=device)}
