"""Sequence classifier on top of a pretrained language model, which stays untouched."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gdrop_viz.base.digest import digest
from gdrop_viz.base.locks import model_lock
from gdrop_viz.base.state import preserved_modes, preserved_rng
from gdrop_viz.models.anatomy import place_of
from gdrop_viz.models.backbone import backbone_of
from gdrop_viz.models.digest import config_of
from gdrop_viz.models.hub import quiet_libraries
from gdrop_viz.sites.dummy import dummy_batches

if TYPE_CHECKING:
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task

# differences of hidden states, relative to the largest: here the same operations run in the same order; other devices
# add in another order, and a model in half precision rounds more than the classifier, which is in single
_ROUNDING, _ROUNDING_ELSEWHERE, _ROUNDING_OF_HALF = 1e-5, 1e-3, 5e-2


def build_classifier(lm: Pretrained, task: Task, *, seed: int = 0) -> nn.Module:
    """Return a float32 sequence classifier for `task` on the CPU: backbone weights of `lm`, head drawn with `seed`.

    The weights come from `lm.model` as it is in memory. Whatever the backbone of `lm` lacks (the head; BERT's
    pooler) is initialised as the architecture does it, the same for every call with the same seed. The model in
    `lm` and the random generators are left as they were. Dropout rates are those of the model's config.

    Raises
    ------
    ValueError
        If transformers knows no sequence classifier for this architecture, if layers or embeddings of the classifier
        find no weights of their shape in `lm.model`, or if the two backbones compute different things: modules that
        were replaced or added in `lm.model` are not in its config, and so not in a classifier.
    """
    config = getattr(lm.model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise ValueError(
            f"expected a model with a transformers config, got {type(lm.model).__name__}; wrap your "
            "network in a transformers model class, or fine-tune it in your own loop with schedule.apply(model)"
        )
    with quiet_libraries(), preserved_rng(seed):
        from transformers import AutoModelForSequenceClassification

        config = copy.deepcopy(config)
        config.num_labels = 1 if task.kind == "regression" else task.n_labels
        config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"
        config.use_cache = False
        config.pad_token_id = pad_token_id(lm)
        try:
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise ValueError(
                f"transformers has no sequence classifier for model type {config.model_type!r}; fine-tune it in your "
                "own loop with schedule.apply(model)"
            ) from error
    with model_lock(lm.model):
        _copy_backbone(lm.model, classifier)
        _check_outputs(lm.model, classifier)
    return classifier


def pad_token_id(lm: Pretrained) -> int:
    """Return the id to pad with: the tokenizer's, the config's, or where there is none (GPT-2) the end-of-text id."""
    candidates = (
        lm.tokenizer.pad_token_id,
        getattr(lm.model.config, "pad_token_id", None),
        lm.tokenizer.eos_token_id,
        getattr(lm.model.config, "eos_token_id", None),
    )
    return next((int(token) for token in candidates if isinstance(token, int) and token >= 0), 0)


def pretrained_digest(lm: Pretrained) -> str:
    """Return a sha256 of what `lm` gives to a fine-tuning run: config, backbone weights and tokenizer.

    >>> len(pretrained_digest(lm))  # doctest: +SKIP
    64
    """
    with model_lock(lm.model):
        return digest(config_of(lm.model), _backbone_state(lm.model), tokenizer_digest(lm.tokenizer))


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a sha256 of all that decides which tokens a text becomes; padding is not among it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        plain = {key: value for key, value in tokenizer.init_kwargs.items() if isinstance(value, (bool, int, float))}
        content: dict[str, Any] = {"vocabulary": tokenizer.get_vocab(), "settings": plain}
    else:
        # padding and truncation are switches that any caller may have left on
        content = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    ends = (tokenizer.truncation_side, tokenizer.model_max_length, list(tokenizer.model_input_names))
    special = (tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.eos_token_id)
    return digest(type(tokenizer).__name__, json.dumps(content, sort_keys=True), ends, special)


def _copy_backbone(source: nn.Module, classifier: nn.Module) -> None:
    given = _backbone_state(source)
    wanted = _backbone_state(classifier)
    for name, tensor in wanted.items():
        found = given.get(name)
        if found is None and place_of(name).component == "head":
            continue  # BERT's pooler: not trained with masked language modelling, so there is nothing to copy
        if found is None or found.shape != tensor.shape:
            shape = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise ValueError(
                f"{type(classifier).__name__} expected {name} of shape {tuple(tensor.shape)} in the pretrained model, "
                f"got {shape} in {type(source).__name__}; its weights and its config must belong together"
            )
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name in given:
                tensor.copy_(given[name])


def _check_outputs(source: nn.Module, classifier: nn.Module) -> None:
    """Raise ValueError if the backbones differ in the last hidden states of a few tokens, by more than rounding."""
    with torch.no_grad(), preserved_modes(source), preserved_modes(classifier), quiet_libraries():
        try:
            expected, got = (_last_states(model) for model in (source, classifier))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError):
            return  # a backbone that does not tell its hidden states for words alone
    weight = next(source.parameters())
    tolerance = _ROUNDING if weight.device == torch.device("cpu") else _ROUNDING_ELSEWHERE
    if weight.dtype not in (torch.float32, torch.float64):
        tolerance = _ROUNDING_OF_HALF
    if any(
        (expected[name] - got[name]).abs().max() > tolerance * expected[name].abs().max()
        for name in expected.keys() & got.keys()
    ):
        raise ValueError(
            f"expected a model that computes what its config says, got {type(source).__name__} with other hidden "
            f"states than {type(classifier).__name__} of the same weights; a module was replaced or added: fine-tune "
            "it in your own loop with schedule.apply(model)"
        )


def _last_states(model: nn.Module) -> dict[str, torch.Tensor]:
    # not output_hidden_states=True: it leaves hooks of transformers in the model
    outputs = backbone_of(model).base(**dummy_batches(model)[0])
    names = ("last_hidden_state", "encoder_last_hidden_state")
    return {name: outputs[name].to("cpu", torch.float32) for name in names if name in outputs}


def _backbone_state(model: nn.Module) -> dict[str, torch.Tensor]:
    # an encoder-decoder with a language-modelling head may hold its stacks itself; base_model is then the model
    body = backbone_of(model)
    heads = () if body.base is not body.model else ("lm_head.", "final_logits_bias")
    return {name: tensor for name, tensor in body.base.state_dict().items() if not name.startswith(heads)}
