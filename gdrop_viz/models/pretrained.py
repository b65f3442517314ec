"""Pretrained language model: loaded by name, folder or hub id, with its tokenizer and objective."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from gdrop_viz.base.checks import few, instance, one_of
from gdrop_viz.models.bundled import bundled_models, data_folder
from gdrop_viz.models.checksums import verify, write_checksums
from gdrop_viz.models.devices import check_weights_present
from gdrop_viz.models.hub import explained_failures, hub_has, looks_like_path, only_cached, quiet_libraries
from gdrop_viz.models.objectives import MEANING, OBJECTIVES, Objective, auto_class, check_fits, objective_of
from gdrop_viz.models.own_loss import state_objective


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
        instance(self.model, nn.Module, "model", "load_pretrained(name).model")
        one_of(self.objective, OBJECTIVES, "objective")
        state_objective(self.model, self.objective)

    @property
    def n_parameters(self) -> int:
        """The number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write weights (safetensors), config, tokenizer and their checksums to `folder`, for `load_pretrained`.

        Raises
        ------
        TypeError
            If model or tokenizer cannot be saved (`tokenizer=None`); nothing is written then.
        """
        folder = Path(folder)
        for part, what in ((self.model, "model"), (self.tokenizer, "tokenizer")):
            if not hasattr(part, "save_pretrained"):
                raise TypeError(
                    f"expected a {what} with save_pretrained, as transformers gives it, got {type(part).__name__}; "
                    f"make the Pretrained with its {what}"
                )
        with quiet_libraries():
            cast(Any, self.model).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        write_checksums(folder)
        return folder

    def __repr__(self) -> str:
        return f"Pretrained(name={self.name!r}, objective={self.objective!r}, {self.n_parameters:,} parameters)"

    def _repr_html_(self) -> str:
        return (
            f"<b>{html.escape(self.name)}</b>: {html.escape(type(self.model).__name__)}, "
            f"{self.n_parameters:,} parameters, pretrained by {MEANING[self.objective]} ({self.objective})"
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
        If the repository is gated, the hub cannot be reached, or a file is cut off. What is downloaded is verified as
        far as `huggingface_hub` does: its size always; `hf cache verify` compares checksums.
    ValueError
        If a bundled model, or a folder written by `Pretrained.save`, differs from its checksums,
        if the revision or the objective is wrong, no objective fits the architecture, or the checkpoint holds no
        language-modelling head: its loss would be that of random weights.

    >>> load_pretrained("bert-mini").objective
    'mlm'
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"expected name as a bundled name, a folder or a hub id, got {type(name).__name__}")
    if objective is not None:
        one_of(objective, OBJECTIVES, "objective")
    if device is not None and device_map is not None:
        raise ValueError(f"expected device= or device_map=, not both, got {device!r} and {device_map!r}; leave one out")
    source, label = _locate(os.fspath(name))
    is_local = Path(source).exists()
    if Path(source).is_dir():
        verify(Path(source))
    with explained_failures("model", label, revision=revision, instead=_bundled_hint()), quiet_libraries():
        from transformers import AutoConfig, AutoTokenizer

        if not is_local and not hub_has(source, filename="config.json", revision=revision):
            raise ValueError("the repository has no config.json, so it holds no transformers model")
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        if not is_local:
            options["local_files_only"] = only_cached(source, filename="config.json", revision=revision)
        config = AutoConfig.from_pretrained(source, **options)
        objective = objective or objective_of(config)
        check_fits(objective, config)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model, loading = auto_class(objective).from_pretrained(
            source, config=config, dtype=dtype, device_map=device_map, output_loading_info=True, **options
        )
    _require_trained(model, loading["missing_keys"], label)
    _require_vocabulary(tokenizer, label)
    if device_map is None:
        model.to(device or "cpu")
    check_weights_present(model)
    return Pretrained(model.eval(), tokenizer, objective, label)


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


def _require_trained(model: nn.Module, missing: list[str], label: str) -> None:
    # buffers may be absent from a good checkpoint; a parameter that is absent has just been drawn at random
    untrained = sorted(set(missing) & {name for name, _ in model.named_parameters(remove_duplicate=False)})
    if untrained:
        raise ValueError(
            f"the checkpoint {label!r} holds no values for {len(untrained)} parameters of {type(model).__name__} "
            f"({few(untrained)}), so its pretraining loss would be that of random weights; "
            "take a checkpoint with its language-modelling head, or set objective= to its own"
        )


def _require_vocabulary(tokenizer: Any, label: str) -> None:
    # without tokenizer files AutoTokenizer gives an empty tokenizer of the model's type, and every word is unknown
    if not set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids):
        raise ValueError(
            f"the checkpoint {label!r} has no tokenizer files; save its tokenizer there too, or use "
            "Pretrained(model, tokenizer, objective=...)"
        )
