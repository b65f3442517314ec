"""Pretraining objective of a language model: masked, causal or span corruption, read from its configuration."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, get_args

Objective = Literal["mlm", "clm", "span"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
MEANING = {"mlm": "masked language modelling", "clm": "causal language modelling", "span": "span corruption"}


def objective_of(config: Any) -> Objective:
    """Return the pretraining objective that a `transformers` config tells: by its architectures, else its model type.

    Raises
    ------
    ValueError
        If it belongs to no language model.

    >>> from transformers import GPT2Config, T5Config
    >>> objective_of(GPT2Config()), objective_of(T5Config(architectures=["T5ForConditionalGeneration"]))
    ('clm', 'span')
    """
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    for architecture in getattr(config, "architectures", None) or ():
        if "MaskedLM" in architecture or ("ForPreTraining" in architecture and not encoder_decoder):
            return "mlm"
        if "ConditionalGeneration" in architecture or "Seq2SeqLM" in architecture:
            return "span"
        if "LMHeadModel" in architecture and encoder_decoder:  # T5's name in its oldest checkpoints
            return "span"
        if "CausalLM" in architecture or "LMHeadModel" in architecture:
            return "clm"
    model_type = getattr(config, "model_type", None)
    # many encoders can also be causal decoders; none was pretrained so, and "clm" comes last
    order: tuple[Objective, ...] = ("span", "mlm", "clm") if encoder_decoder else ("mlm", "clm")
    for objective in order:
        if model_type in _model_types(objective):
            return objective
    raise ValueError(
        f"no pretraining objective is known for model type {model_type!r} with architectures "
        f"{getattr(config, 'architectures', None)}; pass objective='mlm', 'clm' or 'span'"
    )


def check_fits(objective: Objective, config: Any) -> None:
    """Raise ValueError if a model of this configuration has no head for `objective`, or would see what it predicts."""
    if config.model_type not in _model_types(objective) and not getattr(config, "auto_map", None):
        raise ValueError(f"objective {objective!r} does not fit the model type {config.model_type!r}")
    if objective != "clm" or getattr(config, "is_encoder_decoder", False):
        return
    looks_back = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if config.model_type in _model_types("mlm") and not looks_back:
        raise ValueError(
            f"objective 'clm' does not fit this {config.model_type!r}: its attention reads both ways, so each token "
            "would see the one it is to predict"
        )


def auto_class(objective: Objective) -> Any:
    """Return the class of `transformers` that loads a model with the objective's head."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    return {"mlm": AutoModelForMaskedLM, "clm": AutoModelForCausalLM, "span": AutoModelForSeq2SeqLM}[objective]


def _model_types(objective: Objective) -> Collection[str]:
    """The model types of `transformers` that have the head of the objective."""
    from transformers.models.auto import modeling_auto

    return {
        "mlm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "clm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "span": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }[objective]
