"""Completions are what models hold most likely, and their probabilities add up."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.text.completions import completions
from tests.conftest import WORDS, word_tokenizer
from tests.unchanged import unchanged

TEXT = "the old cat {} near the river"
SIZE = 5 + len(WORDS)


@pytest.fixture
def causal():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=SIZE, n_positions=64, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)
    tokenizer = word_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.backend_tokenizer.post_processor = None
    return Pretrained(GPT2LMHeadModel(config).eval(), tokenizer, "clm", "causal")


@pytest.fixture
def seq2seq():
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"], "eos_token": "[SEP]"})
    config = T5Config(
        vocab_size=SIZE + 2, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = T5ForConditionalGeneration(config).eval()
    model.shared.weight.data.mul_(4)  # a random model that has favourites
    return Pretrained(model, tokenizer, "span", "seq2seq")


def test_a_masked_model_fills_in_its_most_likely_tokens(tiny_lm):
    table = completions(tiny_lm, TEXT, n=SIZE)
    inputs = tiny_lm.tokenizer(TEXT.format("[MASK]"), return_tensors="pt")
    with torch.no_grad():
        probabilities = tiny_lm.model(**inputs).logits[0, 4].softmax(-1)  # [CLS] the old cat [MASK]
    assert table["probability"].sum() == pytest.approx(1, abs=1e-5)
    best = table.iloc[0]
    assert best["probability"] == pytest.approx(probabilities.max().item(), rel=1e-5)
    assert best["completion"] == tiny_lm.tokenizer.decode([probabilities.argmax()]).strip()
    assert best["text"] == TEXT.format(best["completion"])


@pytest.mark.parametrize("n", [1, 3])
def test_a_causal_model_goes_on_from_what_stands_before(causal, n):
    table = completions(causal, TEXT, n=n, max_new_tokens=3)
    assert len(table) == n
    for row in table.itertuples():
        ids = causal.tokenizer(f"the old cat {row.completion}", return_tensors="pt")["input_ids"]
        assert ids.shape == (1, 6)
        with torch.no_grad():
            logp = causal.model(ids).logits.log_softmax(-1)
        expected = sum(logp[0, at - 1, ids[0, at]] for at in (3, 4, 5)).exp().item()
        assert row.probability == pytest.approx(expected, rel=1e-4)
        assert row.text == f"the old cat {row.completion}"


def test_a_span_model_fills_in_until_the_next_sentinel(seq2seq):
    tokenizer, model = seq2seq.tokenizer, seq2seq.model
    table = completions(seq2seq, TEXT, n=4, max_new_tokens=1)
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    inputs = tokenizer(TEXT.format("<extra_id_0>"), return_tensors="pt")
    with torch.no_grad():
        start = torch.tensor([[0, first]])
        encoded = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        best = model(**encoded, decoder_input_ids=start).logits[0, -1].softmax(-1).topk(4)
    assert table["probability"].tolist() == pytest.approx(best.values.tolist(), rel=1e-4)
    assert "<extra_id" not in " ".join(table["text"])


def test_the_model_and_the_dice_are_left_as_they_were(tiny_lm):
    tiny_lm.model.train()
    # models with noise of their own draw in eval mode too
    tiny_lm.model.register_forward_pre_hook(lambda *_: torch.rand(1) and None)
    with unchanged(tiny_lm.model):
        completions(tiny_lm, TEXT)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("no blank", {}, "exactly one blank"),
        ("{} and {}", {}, "exactly one blank"),
        (None, {}, "exactly one blank"),
        (TEXT, {"n": 0}, "at least 1"),
        (TEXT, {"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_errors_say_what_was_expected(tiny_lm, text, options, message):
    with pytest.raises(ValueError, match=message):
        completions(tiny_lm, text, **options)


def test_what_a_model_cannot_do_is_said(tiny_lm, causal):
    with pytest.raises(ValueError, match="what stands before the blank"):
        completions(causal, "{} old cat")
    with pytest.raises(ValueError, match="no sentinel tokens"):
        completions(Pretrained(tiny_lm.model, tiny_lm.tokenizer, "span", "odd"), TEXT)
    plain = word_tokenizer()
    plain.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        completions(Pretrained(tiny_lm.model, plain, "mlm", "odd"), TEXT)
