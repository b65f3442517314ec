"""Which architectures must everything work on? Tiny random models of each, with a ragged, padded, labelled batch.

Use it as `@pytest.mark.parametrize("name", ZOO)`, then `case = build(name)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 72
WIDTH = 16
HEADS = 2
PAD, BOS, EOS = 0, 1, 2
FIRST_WORD = 3
LENGTHS = (12, 7, 9)
TARGET_LENGTHS = (6, 8, 4)
MASK = VOCABULARY - 1

Objective = Literal["mlm", "clm", "span"]


@dataclass(frozen=True)
class ModelCase:
    """A tiny model in eval mode, a batch of three ragged sequences with labels, and its pretraining objective."""

    name: str
    model: nn.Module
    batch: dict[str, Tensor]
    objective: Objective


# objective and the settings that make the configuration tiny; the class names follow from the architecture's name
# ModernBert: the window must reach from the last padding to a word: eager attention over nothing has NaN gradients
_BERT_LIKE = dict(
    hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=24, max_position_embeddings=32
)
_LLAMA_LIKE = dict(_BERT_LIKE, num_key_value_heads=1)
_BART_LIKE = dict(
    d_model=WIDTH,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=HEADS,
    decoder_attention_heads=HEADS,
    encoder_ffn_dim=24,
    decoder_ffn_dim=20,
    max_position_embeddings=32,
    decoder_start_token_id=EOS,
    forced_eos_token_id=None,
)
_T5_LIKE = dict(
    d_model=WIDTH,
    d_kv=8,
    d_ff=24,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=HEADS,
    relative_attention_num_buckets=8,
    decoder_start_token_id=PAD,
)
_ARCHITECTURES: dict[str, tuple[Objective, dict[str, Any]]] = {
    "Bert": ("mlm", _BERT_LIKE),
    "Roberta": ("mlm", _BERT_LIKE),
    "DistilBert": ("mlm", dict(dim=WIDTH, n_layers=2, n_heads=HEADS, hidden_dim=24, max_position_embeddings=32)),
    "Albert": ("mlm", dict(_BERT_LIKE, embedding_size=8)),
    "Electra": ("mlm", dict(_BERT_LIKE, embedding_size=8)),
    "DebertaV2": (
        "mlm",
        dict(
            _BERT_LIKE,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=4,
            max_relative_positions=-1,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
        ),
    ),
    "MPNet": ("mlm", dict(_BERT_LIKE, pad_token_id=1, relative_attention_num_buckets=32)),  # both are wired in
    "MobileBert": ("mlm", dict(_BERT_LIKE, embedding_size=8, intra_bottleneck_size=8, num_feedforward_networks=2)),
    "ModernBert": ("mlm", dict(_BERT_LIKE, local_attention=12, cls_token_id=BOS, sep_token_id=EOS)),
    "XLMRoberta": ("mlm", _BERT_LIKE),
    "GPT2": ("clm", dict(n_embd=WIDTH, n_layer=2, n_head=HEADS, n_inner=24, n_positions=32)),
    "GPTNeo": (
        "clm",
        dict(
            hidden_size=WIDTH,
            num_layers=2,
            num_heads=HEADS,
            intermediate_size=24,
            max_position_embeddings=32,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
        ),
    ),
    "GPTNeoX": ("clm", dict(_BERT_LIKE, rotary_pct=0.5)),
    "OPT": (
        "clm",
        dict(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            ffn_dim=24,
            word_embed_proj_dim=WIDTH,
            max_position_embeddings=32,
        ),
    ),
    "Bloom": ("clm", dict(hidden_size=WIDTH, n_layer=2, n_head=HEADS)),
    "Llama": ("clm", _LLAMA_LIKE),
    "Mistral": ("clm", dict(_LLAMA_LIKE, sliding_window=8)),
    "Qwen2": ("clm", _LLAMA_LIKE),
    "Qwen3": ("clm", dict(_LLAMA_LIKE, head_dim=8)),
    "Gemma": ("clm", dict(_LLAMA_LIKE, head_dim=8)),
    "Phi": ("clm", _BERT_LIKE),
    "Falcon": (
        "clm",
        dict(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            ffn_hidden_size=24,
            new_decoder_architecture=False,
            multi_query=True,
            alibi=False,
            max_position_embeddings=32,
        ),
    ),
    "Mixtral": ("clm", dict(_LLAMA_LIKE, num_local_experts=4, num_experts_per_tok=2)),
    "T5": ("span", _T5_LIKE),
    "Bart": ("span", _BART_LIKE),
    "Pegasus": ("span", dict(_BART_LIKE, decoder_start_token_id=PAD)),
    "MT5": ("span", dict(_T5_LIKE, feed_forward_proj="gated-gelu")),
}
_HEAD = {"mlm": "ForMaskedLM", "clm": "ForCausalLM", "span": "ForConditionalGeneration"}
_LAYER_SETTINGS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_decoder_layers")
_LAYER_SETTINGS += ("encoder_layers", "decoder_layers")


def configuration(name: str, *, dropout: float = 0.1, layers: int = 2, **changes: Any) -> Any:
    """Return the architecture's tiny configuration with every dropout rate that it knows set to `dropout`."""
    _, settings = _ARCHITECTURES[name]
    settings = {key: layers if key in _LAYER_SETTINGS else value for key, value in settings.items()}
    if name == "GPTNeo":
        settings["attention_types"] = [[["global", "local"], layers // 2]]
    config_class = getattr(transformers, f"{name}Config")
    rates = {
        key: dropout
        for key, value in config_class().to_dict().items()
        if "drop" in key and "layerdrop" not in key and (isinstance(value, float) or value is None)
    }
    common = dict(vocab_size=VOCABULARY, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    return config_class(**{**common, **rates, **settings, **changes})


def build(
    name: str,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    tied: bool | None = None,
    head: str | None = None,
    layers: int = 2,
    dropout: float = 0.1,
    **changes: Any,
) -> ModelCase:
    """Build one architecture of the zoo with random weights; the global generator is left as it was.

    `attention="sdpa"` falls back to eager where the architecture has no other; `tied` overrides whether the head
    shares the embedding; `head` (such as "ForSequenceClassification") replaces the language model head.
    """
    objective, _ = _ARCHITECTURES[name]
    config = configuration(name, dropout=dropout, layers=layers, **changes)
    if tied is not None:
        config.tie_word_embeddings = tied
    head = head or ("LMHeadModel" if name == "GPT2" else _HEAD[objective])
    model_class = getattr(transformers, name + head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = model_class._from_config(config, attn_implementation=attention)
        except ValueError as error:
            if attention != "sdpa" or "does not support" not in str(error):
                raise
            model = model_class._from_config(config, attn_implementation="eager")
        _wake_all_parameters(model)
    return ModelCase(name, model.eval().to(dtype), make_batch(objective, seed=seed, pad=config.pad_token_id), objective)


def _wake_all_parameters(model: nn.Module) -> None:
    """Give every bias and norm a random value: at zero or one, a mistake in their gradients would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1 or not parameter.any():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def make_batch(
    objective: Objective,
    *,
    seed: int = 0,
    pad: int = PAD,
    lengths: tuple[int, ...] = LENGTHS,
    target_lengths: tuple[int, ...] = TARGET_LENGTHS,
) -> dict[str, Tensor]:
    """Sequences of the given lengths, padded on the right, each with at least one predicted token."""
    generator = torch.Generator().manual_seed(seed)
    input_ids, attention_mask = _padded_words(lengths, pad, generator)
    if objective == "span":
        words, present = _padded_words(target_lengths, pad, generator)
        labels = words.masked_fill(present == 0, -100)
    elif objective == "clm":
        labels = input_ids.masked_fill(attention_mask == 0, -100)
    else:
        chosen = torch.rand(input_ids.shape, generator=generator) < 0.2
        chosen[:, 2] = True
        chosen &= attention_mask.bool()
        labels = input_ids.masked_fill(~chosen, -100)
        input_ids = input_ids.masked_fill(chosen, MASK)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


# lengths of the sequences and of their targets, in shapes in which an axis could be taken for another
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "one sequence": ((7,), (5,)),
    "N = T = U": ((8,) * 8, (8,) * 8),
    "N = U, padded": ((9, 7, 9, 9, 8), (5, 3, 5, 4, 5)),
    "N = heads": ((6,) * HEADS, (4,) * HEADS),
    "N = T, padded": ((6, 4, 6, 5, 6, 6), (7, 7, 3, 6, 7, 7)),
}


def batches_of_many_shapes(case: ModelCase) -> list[dict[str, Tensor]]:
    """A batch of each of `SHAPES`, that of one sequence first."""
    pad = case.model.config.pad_token_id
    return [
        make_batch(case.objective, seed=seed, pad=pad, lengths=lengths, target_lengths=targets)
        for seed, (lengths, targets) in enumerate(SHAPES.values())
    ]


def _padded_words(lengths: tuple[int, ...], pad: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (len(lengths), max(lengths))
    present = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)
    words = torch.randint(FIRST_WORD, MASK, shape, generator=generator)
    return words.masked_fill(~present, pad), present.long()


ZOO: dict[str, Callable[..., ModelCase]] = {name: partial(build, name) for name in _ARCHITECTURES}
