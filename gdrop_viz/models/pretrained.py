"""Where does a pretrained language model come from, and which loss was it pretrained with?"""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from gdrop_viz.models.bundled import bundled_models, data_folder
from gdrop_viz.models.checksums import verify, write_checksums
from gdrop_viz.models.devices import check_weights_present
from gdrop_viz.models.downloads import verified_downloads
from gdrop_viz.models.hub import explained_failures, hub_has, looks_like_path, only_cached, quiet_libraries

Objective = Literal["mlm", "clm", "span"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)

_MEANING = {"mlm": "masked language modelling", "clm": "causal language modelling", "span": "span corruption"}


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained language model with its tokenizer and pretraining objective.

    Parameters
    ----------
    model
        The model with its language-modelling head, as `transformers` gives it or of one's own.
    tokenizer
        The tokenizer of the pretraining.
    objective
        "mlm" (masked tokens, BERT), "clm" (next token, GPT-2) or "span" (span corruption, T5).
    name
        What tables and titles call it.

    Raises
    ------
    TypeError, ValueError
        If `model` is no `torch.nn.Module` or the objective is none of the three.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> size = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> lm = Pretrained(BertForMaskedLM(BertConfig(**size)), tokenizer=None, objective="mlm", name="mine")
    >>> lm
    Pretrained(name='mine', objective='mlm', 4,996 parameters)
    """

    model: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    objective: Objective = "mlm"
    name: str = "model"

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(self.model).__name__}")
        _check_objective(self.objective)

    @property
    def n_parameters(self) -> int:
        """The number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write weights (safetensors), config, tokenizer and their checksums to `folder`, for `load_pretrained`."""
        folder = Path(folder)
        with quiet_libraries():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        write_checksums(folder)
        return folder

    def __repr__(self) -> str:
        return f"Pretrained(name={self.name!r}, objective={self.objective!r}, {self.n_parameters:,} parameters)"

    def _repr_html_(self) -> str:
        return (
            f"<b>{html.escape(self.name)}</b>: {html.escape(type(self.model).__name__)}, "
            f"{self.n_parameters:,} parameters, pretrained by {_MEANING[self.objective]} ({self.objective})"
        )


def load_pretrained(
    name: str | os.PathLike[str],
    *,
    objective: Objective | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    trust_remote_code: bool = False,
) -> Pretrained:
    """Load a pretrained language model, in eval mode, by bundled name, local folder or hub id (tried in this order).

    Parameters
    ----------
    name
        A name of `models.bundled.bundled_models()`, a folder written by `save_pretrained`, or a repository of the
        Hugging Face hub such as "bert-base-uncased". Write "./bert-mini" to mean a folder with a bundled name.
    objective
        "mlm", "clm" or "span"; by default read from the checkpoint's config: its architecture, else its model type.
    revision
        Branch, tag or commit of the hub repository.
    dtype
        Type of the weights.
    device
        Where to put the model; the CPU by default.
    device_map
        In place of `device`, for a model larger than one GPU: "auto", or module name -> device, as accelerate takes it.
        Fisher information at tensor resolution and surfaces work on such a model as on any other.
    trust_remote_code
        Whether code of the hub repository may run on this machine.

    Raises
    ------
    FileNotFoundError
        If there is no such model; the line names the bundled ones.
    RuntimeError
        If the repository is gated, the hub cannot be reached, or a file is damaged: what is downloaded is held against
        the checksums that the hub announces.
    ValueError
        If a bundled model, or a folder written by `Pretrained.save`, differs from its checksums,
        if the revision or the objective is wrong, no objective fits the architecture, or the checkpoint holds no
        language-modelling head: its loss would be that of random weights.

    >>> load_pretrained("bert-mini").objective
    'mlm'
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"name must be a bundled name, a folder or a hub id, got {type(name).__name__}")
    if objective is not None:
        _check_objective(objective)
    if device is not None and device_map is not None:
        raise ValueError(f"give device= or device_map=, not both; got {device!r} and {device_map!r}")
    source, label = _locate(os.fspath(name))
    is_local = Path(source).exists()
    if Path(source).is_dir():
        verify(Path(source))
    with (
        explained_failures("model", label, revision=revision, instead=_bundled_hint()),
        quiet_libraries(),
        nullcontext() if is_local else verified_downloads(source, "model"),
    ):
        from transformers import AutoConfig, AutoTokenizer

        if not is_local and not hub_has(source, filename="config.json", revision=revision):
            raise ValueError("the repository has no config.json, so it holds no transformers model")
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        if not is_local:
            options["local_files_only"] = only_cached(source, filename="config.json", revision=revision)
        config = AutoConfig.from_pretrained(source, **options)
        objective = objective or objective_of(config)
        _require_fitting(objective, config)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model, loading = _auto_class(objective).from_pretrained(
            source, config=config, dtype=dtype, device_map=device_map, output_loading_info=True, **options
        )
    _require_trained(model, loading["missing_keys"], label)
    _require_vocabulary(tokenizer, label)
    if device_map is None:
        model.to(device or "cpu")
    check_weights_present(model)
    return Pretrained(model.eval(), tokenizer, objective, label)


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
    model_type, known = getattr(config, "model_type", None), _model_types()
    # many encoders can also be causal decoders; none was pretrained so, and "clm" comes last
    order: tuple[Objective, ...] = ("span", "mlm", "clm") if encoder_decoder else ("mlm", "clm")
    for objective in order:
        if model_type in known[objective]:
            return objective
    raise ValueError(
        f"no pretraining objective is known for model type {model_type!r} with architectures "
        f"{getattr(config, 'architectures', None)}; pass objective='mlm', 'clm' or 'span'"
    )


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


def _check_objective(objective: object) -> None:
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(map(repr, OBJECTIVES))}, got {objective!r}")


def _bundled_hint() -> str:
    names = bundled_models()
    return f"bundled models, which need no network: {', '.join(names)}" if names else "no model is bundled here"


def _locate(name: str) -> tuple[str, str]:
    """Return what `from_pretrained` is to open, and the name for tables."""
    if name in bundled_models():
        return str(data_folder() / "models" / name), name
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return str(folder), folder.resolve().name
    if looks_like_path(name) or not name:
        found = "has no config.json" if folder.is_dir() and name else "does not exist"
        raise FileNotFoundError(
            f"expected a folder written by save_pretrained, but {name!r} {found}; {_bundled_hint()}"
        )
    return name, name


def _auto_class(objective: Objective) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    return {"mlm": AutoModelForMaskedLM, "clm": AutoModelForCausalLM, "span": AutoModelForSeq2SeqLM}[objective]


def _require_fitting(objective: Objective, config: Any) -> None:
    known = _model_types()[objective]
    if config.model_type not in known and not getattr(config, "auto_map", None):
        raise ValueError(f"objective {objective!r} does not fit the model type {config.model_type!r}")
    both_ways = config.model_type in _model_types()["mlm"] and not getattr(config, "is_encoder_decoder", False)
    if (
        objective == "clm"
        and both_ways
        and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))
    ):
        raise ValueError(
            f"objective 'clm' does not fit this {config.model_type!r}: its attention reads both ways, so each token "
            "would see the one it is to predict"
        )


def _model_types() -> dict[Objective, Collection[str]]:
    """Return the model types of transformers that have the head of each objective."""
    from transformers.models.auto import modeling_auto

    return {
        "mlm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "clm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "span": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }


def _require_trained(model: nn.Module, missing: list[str], label: str) -> None:
    # buffers may be absent from a good checkpoint; a parameter that is absent has just been drawn at random
    untrained = sorted(set(missing) & {name for name, _ in model.named_parameters(remove_duplicate=False)})
    if untrained:
        some = ", ".join(untrained[:3]) + (", ..." if len(untrained) > 3 else "")
        raise ValueError(
            f"the checkpoint {label!r} holds no values for {len(untrained)} parameters of {type(model).__name__} "
            f"({some}), so its pretraining loss would be that of random weights; "
            "take a checkpoint with its language-modelling head, or set objective= to its own"
        )


def _require_vocabulary(tokenizer: Any, label: str) -> None:
    # without tokenizer files AutoTokenizer gives an empty tokenizer of the model's type, and every word is unknown
    if not set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids):
        raise ValueError(
            f"the checkpoint {label!r} has no tokenizer files; save its tokenizer there too, or use "
            "Pretrained(model, tokenizer, objective=...)"
        )
