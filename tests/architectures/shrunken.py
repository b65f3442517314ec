"""Small random models of every model type and task of `transformers`, by shrinking the type's own configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

VOCABULARY, PAD, BOS, EOS, OTHER = 72, 0, 1, 2, 71
TASKS = ("masked", "causal", "sequence to sequence", "classification")
_MAPPING = {
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "sequence to sequence": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
}
_MOST_PARAMETERS = 3_000_000


@dataclass(frozen=True)
class Pair:
    """A model type and what it is asked for."""

    kind: str
    task: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.task}"


@dataclass(frozen=True)
class _Size:
    hidden: int
    heads: int
    key_value_heads: int
    dropout: float = 0.1


_SIZES = (
    _Size(16, 2, 1),
    _Size(32, 4, 2),
    _Size(32, 4, 4),
    _Size(64, 4, 2),
    _Size(64, 8, 8),
    _Size(32, 4, 2, dropout=0.0),
)


def pairs() -> list[Pair]:
    """Every model type with each task that the automatic classes know; the tasks take turns."""
    from transformers.models.auto import modeling_auto

    places = {}
    for task in TASKS:
        kinds = sorted(getattr(modeling_auto, _MAPPING[task]))
        places |= {Pair(kind, task): number / len(kinds) for number, kind in enumerate(kinds)}
    return sorted(places, key=lambda pair: (places[pair], TASKS.index(pair.task)))


def class_of(pair: Pair) -> Any:
    """The class of the pair's model."""
    import transformers
    from transformers.models.auto import modeling_auto

    names = getattr(modeling_auto, _MAPPING[pair.task])[pair.kind]
    return getattr(transformers, names if isinstance(names, str) else names[0])


def build(pair: Pair, *, dtype: torch.dtype, check: Any) -> nn.Module:
    """The first size of the pair's model for which `check(model)` does not raise, in eval mode.

    Raises
    ------
    RuntimeError
        If there is none, with the first reason.
    """
    reasons = []
    for size in _SIZES:
        for by in (_made, _changed):
            try:
                config = by(pair.kind, size)
                _finish(config, pair.task)
                torch.manual_seed(0)
                model = class_of(pair)(config)
                n = sum(parameter.numel() for parameter in model.parameters())
                if n > _MOST_PARAMETERS:
                    raise RuntimeError(f"{n:,} parameters")
                _wake(model)
                model = model.to(dtype).eval()
                check(model)
            except Exception as error:
                reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            else:
                return model
    raise RuntimeError(reasons[0])


# what is wired into a type's code, so that a small setting does not fit
_FIXED: dict[str, dict[str, Any]] = {
    "mpnet": {"relative_attention_num_buckets": 32, "pad_token_id": 1},
    "mobilebert": {"embedding_size": 8},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_buckets": 2},
}


def _made(kind: str, size: _Size) -> Any:
    """A configuration from small settings: what is derived from them is derived anew."""
    from transformers import CONFIG_MAPPING

    default = CONFIG_MAPPING[kind]()
    content = _shrunken(default.to_dict(), size, _n_layers(default.to_dict()))
    return CONFIG_MAPPING[kind](**{**content, **_FIXED.get(kind, {})})


def _changed(kind: str, size: _Size) -> Any:
    """The type's default configuration with small values written over its own."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    _write(config, size, _n_layers(config.to_dict()))
    return config


def _write(config: Any, size: _Size, layers: int) -> None:
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _write(value, size, layers)
        else:
            small = _small(name, value, size, layers)
            if small is not value:
                setattr(config, name, small)


def _shrunken(content: Mapping[str, Any], size: _Size, layers: int) -> dict[str, Any]:
    left_out = ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "model_type")
    return {
        name: _shrunken(value, size, layers)
        if isinstance(value, dict) and (name.endswith("_config") or name in ("encoder", "decoder"))
        else _small(name, value, size, layers)
        for name, value in content.items()
        if name not in left_out
    }


def _n_layers(content: Mapping[str, Any]) -> int:
    """As many layers as there are kinds of them, two at least."""
    kinds = [
        len(set(map(str, value)))
        for part in [content, *(value for value in content.values() if isinstance(value, dict))]
        for name, value in part.items()
        if isinstance(value, list) and _LAYER_LISTS.fullmatch(str(name))
    ]
    return max([2, *kinds])


_LAYER_LISTS = re.compile(
    r"layer_types|layers_block_type|attn_layers|attention_layers|mlp_layer_types|hybrid_override_pattern|block_types"
)
# what a setting's name says of its size: the first pattern that fits
_RULES: tuple[tuple[str, Any], ...] = tuple(
    (re.compile(pattern), value)
    for pattern, value in (
        (r"pad_token_id|pad_token_index|padding_idx", lambda s, L: PAD),
        (r"bos_token_id", lambda s, L: BOS),
        (r"(eos|sep)_token_id|decoder_start_token_id|forced_eos_token_id", lambda s, L: EOS),
        (r"type_vocab_size|task_type_vocab_size", lambda s, L: 2),
        (r".*vocab_size.*", lambda s, L: VOCABULARY),
        (r"qk_head_dim", lambda s, L: 2 * s.hidden // s.heads),
        (r"hidden_size_per_layer_input|.*_rank|.*d_state|.*state_size|index_head_dim|chunk_size_feed_forward", 8),
        (r".*(key_value|_kv)_heads.*|num_key_value_groups", lambda s, L: s.key_value_heads),
        (r"linear_num_.*_heads", lambda s, L: s.heads),
        (r".*(heads?|heads_global)", lambda s, L: s.heads),
        (r".*head_dim|head_size|d_kv|d_head|dim_head|kv_channels|.*_d_head|attention_head_size|rotary_dim",
         lambda s, L: s.hidden // s.heads),
        (r"(num_)?kv_shared_layers|num_kv_shared_layers|num_nextn_predict_layers", 0),
        (r"max_window_layers|num_dense_layers|first_k_dense_replace|moe_layer_start_index", 1),
        (r".*layers|n_layer|num_blocks|depth|moe_layer_end_index", lambda s, L: L),
        (r".*per_tok(en)?|.*top_?k|num_selected_experts|top_k_experts", 2),
        (r"n_group|topk_group|num_expert_group|moe_top_?k_group|n_groups|.*_n_groups|.*shared_experts", 1),
        (r".*experts.*", 4),
        (r".*(intermediate|ffn|feed_forward|feedforward).*(size|dim)|d_ff|dff|n_inner|d_inner|hidden_dim|.*ffn_dim",
         lambda s, L: 2 * s.hidden),
        (r".*(hidden_size|d_model|n_embd|emb(ed(ding)?)?_(dim|size)|embed_proj_dim|lru_width|d_latents|head_size)|dim"
         r"|.*bottleneck_size|.*hidden_size_.*|output_dim|.*width",
         lambda s, L: s.hidden),
        (r".*max_.*position.*|n_positions|max_seq_len|max_sequence_length|n_ctx|context_length", 64),
        (r".*(window|window_size|local_attention|chunk_length|chunk_size)", 8),
        (r"image_size", 32),
        (r".*patch_size", 16),
        (r"relative_attention_num_buckets|num_buckets", 8),
    )
)  # fmt: skip


def _small(name: str, value: Any, size: _Size, layers: int) -> Any:
    if isinstance(value, bool) or name in ("id2label", "label2id", "num_labels"):
        return value
    if isinstance(value, float) and "drop" in name:
        return 0.0 if "layerdrop" in name or "layer_drop" in name else size.dropout
    if isinstance(value, list) and _LAYER_LISTS.fullmatch(name) and value:
        kinds = list(dict.fromkeys(map(str, value)))
        return [next(item for item in value if str(item) == kinds[i % len(kinds)]) for i in range(layers)]
    if isinstance(value, list) and name.endswith("token_id"):
        return EOS
    if name == "vocab_size" and value is None:
        return VOCABULARY
    if not isinstance(value, int) or value < 0:
        return value
    if re.search(r"(token_id|token_index|_index|_id)$", name) and value >= VOCABULARY:
        known = next((rule for pattern, rule in _RULES[:3] if pattern.fullmatch(name)), None)
        return known(size, layers) if known else OTHER
    for pattern, rule in _RULES:
        if pattern.fullmatch(name):
            found = rule(size, layers) if callable(rule) else rule
            return found if found in (PAD, BOS, EOS) and "token" in name else min(found, value)
    return value


def _finish(config: Any, task: str) -> None:
    """What the task asks of a configuration."""
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]
    for part in parts:
        for name in ("use_cache", "output_router_logits"):
            if hasattr(part, name):
                setattr(part, name, False)
    for part in parts:
        if getattr(part, "pad_token_id", None) is None or part.pad_token_id >= VOCABULARY:
            part.pad_token_id = PAD
    if task == "causal" and hasattr(config, "is_decoder") and not config.is_encoder_decoder:
        config.is_decoder = True  # an encoder's own class for text that goes on: it looks back only when told
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = BOS
    if task == "classification":
        config.num_labels = 3
        config.problem_type = "single_label_classification"


def _wake(model: nn.Module) -> None:
    """Give every bias, norm and zero matrix a random value: at zero a mistake in their gradients would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and (parameter.dim() <= 1 or not parameter.any()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def batches_of(task: str, pad: int, *, same_length: bool = False) -> Iterator[dict[str, torch.Tensor]]:
    """Labelled batches: three ragged rows padded on the right, and as many rows as tokens without padding.

    `same_length`: a decoder's labels are as long as the text (some models make its input of the text).
    """
    generator = torch.Generator().manual_seed(0)
    for lengths, targets in (((12, 7, 9), (6, 8, 4)), ((5,) * 5, (5,) * 5)):
        ids, present = _words(lengths, pad, generator)
        batch = {"input_ids": ids, "attention_mask": present}
        if task == "classification":
            batch["labels"] = torch.tensor([0, 2, 1, 1, 0])[: len(lengths)]
            ids[torch.arange(len(lengths)), present.sum(1) - 1] = EOS  # where an encoder-decoder's classifier looks
        elif task == "sequence to sequence":
            words, there = _words(lengths if same_length else targets, pad, generator)
            batch["labels"] = words.masked_fill(there == 0, -100)
        elif task == "causal":
            batch["labels"] = ids.masked_fill(present == 0, -100)
        else:
            chosen = torch.zeros_like(ids, dtype=torch.bool)
            chosen[:, [1, 3]] = True
            batch["labels"] = ids.masked_fill(~chosen, -100)
        yield batch


def _words(lengths: tuple[int, ...], pad: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    present = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    words = torch.randint(10, OTHER - 5, present.shape, generator=generator)
    return words.masked_fill(~present, pad), present.long()
