from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from gdrop_viz.finetuning.classifier import build_classifier
from gdrop_viz.finetuning.encoding import PaddedBatches, encode, length_limit
from gdrop_viz.models.pretrained import Pretrained
from tests.conftest import word_tokenizer
from tests.zoo import build

ROWS = {"text": ["the cat sleeps", "a dog", "the the the the the the the the"], "label": [1, 0, 1]}


@pytest.fixture
def rows():
    return Dataset.from_dict(ROWS)


def test_features_are_the_tokenizers(tiny_lm, rows):
    encoded = encode(tiny_lm, rows, max_length=6)
    expected = word_tokenizer()(ROWS["text"], truncation=True, max_length=6)
    assert [row["input_ids"].tolist() for row in encoded] == expected["input_ids"]
    assert [row["labels"] for row in encoded] == [1, 0, 1]


def test_pairs_are_encoded_together(tiny_lm):
    rows = Dataset.from_dict({"text": ["the cat", "a"], "text_pair": ["a dog", "the sea"], "label": [0, 1]})
    tiny_lm.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's own
    encoded = encode(tiny_lm, rows, max_length=20)
    expected = tiny_lm.tokenizer(rows["text"][:], rows["text_pair"][:])
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert [row[name].tolist() for row in encoded] == expected[name]
    assert PaddedBatches(tiny_lm)(encoded)["token_type_ids"].sum() == sum(map(sum, expected["token_type_ids"])) > 0


def test_each_text_is_tokenised_once(tiny_lm, rows):
    calls = []

    class Counting(type(tiny_lm.tokenizer)):
        def __call__(self, texts, *args, **kwargs):
            calls.append(list(texts))
            return super().__call__(texts, *args, **kwargs)

    tiny_lm.tokenizer.__class__ = Counting
    encode(tiny_lm, rows, max_length=6)
    encode(tiny_lm, rows.select([2, 0]), max_length=6)
    assert calls == [ROWS["text"]]
    assert len(encode(tiny_lm, rows, max_length=4)[2]["input_ids"]) == 4


def test_padding_and_labels(tiny_lm, rows):
    encoded = encode(tiny_lm, rows, max_length=64)
    batch = PaddedBatches(tiny_lm)(encoded)
    expected = word_tokenizer()(ROWS["text"], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].dtype == torch.long
    fixed = PaddedBatches(tiny_lm, fixed_length=32, regression=True)(encoded)
    assert fixed["input_ids"].shape == (3, 32)
    assert fixed["labels"].dtype == torch.float32


def test_the_models_positions_limit_the_length(tiny_lm):
    assert length_limit(tiny_lm) == 64
    tiny_lm.model.config.max_position_embeddings = 20
    assert length_limit(tiny_lm) == 20


@pytest.mark.parametrize("name", ["Roberta", "XLMRoberta", "MPNet"])
def test_positions_that_begin_behind_the_padding(name, toy_task):
    """Their config counts rows of the table that no token reaches."""
    case = build(name)
    lm = Pretrained(case.model, word_tokenizer(), objective="mlm")
    lm.tokenizer.model_max_length = 10**6
    rows = Dataset.from_dict({"text": ["the cat " * 500], "label": [1]})
    encoded = encode(lm, rows, max_length=10**6)
    assert len(encoded[0]["input_ids"]) == length_limit(lm) < case.model.config.max_position_embeddings
    build_classifier(lm, toy_task)(**PaddedBatches(lm)(encoded))


def test_encoder_decoders_see_one_end_of_text_at_the_end(rows):
    case = build("T5")
    lm = Pretrained(case.model, word_tokenizer(), objective="span")
    end = lm.model.config.eos_token_id
    for row in encode(lm, rows, max_length=6):
        assert np.flatnonzero(row["input_ids"] == end).tolist() == [len(row["input_ids"]) - 1]
        assert 2 <= len(row["input_ids"]) == len(row["attention_mask"]) <= 6


def test_models_without_a_pad_token(toy_task):
    case = build("GPT2")
    case.model.config.pad_token_id = None
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    lm = Pretrained(case.model, tokenizer, objective="clm")
    classifier = build_classifier(lm, toy_task).eval()
    rows = encode(lm, toy_task.validation.select(range(5)), max_length=32)
    together = classifier(**PaddedBatches(lm)(rows)).logits
    one_by_one = torch.cat([classifier(**PaddedBatches(lm)([row])).logits for row in rows])
    # padding must not move the token that the head reads; sums over other widths round differently
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)
    assert tokenizer.pad_token is None


def test_empty_texts_give_at_least_one_token(tiny_lm):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    lm = Pretrained(build("GPT2").model, PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<eos>"), "clm")
    rows = encode(lm, Dataset.from_dict({"text": ["", "a a"], "label": [0, 1]}), max_length=8)
    assert [len(row["input_ids"]) for row in rows] == [1, 2]


@pytest.mark.parametrize("added", [["zzz"], ["zzz", "a long word"]])
def test_tokens_that_the_model_does_not_embed_are_refused_each_time(tiny_lm, added):
    size = len(tiny_lm.tokenizer)
    tiny_lm.tokenizer.add_tokens(added)
    rows = Dataset.from_dict({"text": ["the cat", f"a {added[-1]}"], "label": [0, 1]})
    for _ in range(2):
        with pytest.raises(ValueError, match=f"expected tokens below {size}, .* model.resize_token_embeddings"):
            encode(tiny_lm, rows, max_length=8)


@pytest.mark.parametrize("word", ["\U0001f600", "今天"])
def test_unknown_words_are_said(tiny_lm, word):
    rows = Dataset.from_dict({"text": [f"the cat {word}"], "label": [0]})
    with pytest.warns(UserWarning, match="20% of the tokens are unknown"):
        encode(tiny_lm, rows, max_length=8)
