"""Pretraining batches hold what the three objectives prescribe, the same at every look."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdrop_viz.models.inputs import longest_input
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.text.batches import Batches, pretraining_batches
from gdrop_viz.text.corruption import _parts, _span_counts
from tests.conftest import WORDS, random_bert, sentences, word_tokenizer
from tests.unchanged import unchanged

TEXTS = sentences(300)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the files that `datasets` caches out of the user's home."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def plain_tokenizer(end="</s>", extra=(), template=True):
    """A word-level tokenizer like T5's: an end token, perhaps sentinels, and neither mask nor begin token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", end, *WORDS, *extra])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token=end)


def tiny_gpt2() -> Pretrained:
    """GPT-2 with a tokenizer that, as GPT-2's own, has no pad token and adds no special ones."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=3 + len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    return Pretrained(GPT2LMHeadModel(config).eval(), plain_tokenizer(template=False), objective="clm", name="gpt2")


def tiny_t5(n_sentinels: int = 20) -> Pretrained:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = plain_tokenizer(extra=[f"<extra_id_{i}>" for i in range(n_sentinels)])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return Pretrained(T5ForConditionalGeneration(config).eval(), tokenizer, objective="span", name="t5")


def rows(batches: Batches) -> list[tuple[list[int], list[int]]]:
    """The sequences without their padding, found without the code under test."""
    found = []
    for batch in batches:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            n_labels = len(labels) if batches.objective == "span" else int(mask.sum())
            labels = labels[:n_labels].tolist()
            while batches.objective == "span" and labels[-1] == -100:
                labels.pop()
            found.append((ids[: int(mask.sum())].tolist(), labels))
    return found


# -- masked language modelling -----------------------------------------------------------------------------------------


def test_masked_tokens_are_15_percent_of_each_sequence_and_labels_restore_the_text(tiny_lm):
    batches = pretraining_batches(tiny_lm, TEXTS, n_sequences=100, batch_size=7, max_length=16)
    tokenizer = tiny_lm.tokenizer
    for (ids, labels), text in zip(rows(batches), batches.texts, strict=True):
        original = tokenizer(text)["input_ids"]
        restored = [label if label != -100 else token for token, label in zip(ids, labels, strict=True)]
        assert restored == original
        assert sum(label != -100 for label in labels) == max(1, round(0.15 * (len(original) - 2)))
        assert labels[0] == labels[-1] == -100  # [CLS] and [SEP] are never predicted


def test_masked_tokens_are_80_10_10(tiny_lm):
    batches = pretraining_batches(tiny_lm, sentences(3000), n_sequences=None, max_length=16)
    fates = [
        "mask" if token == 4 else "same" if token == label else "random"
        for ids, labels in rows(batches)
        for token, label in zip(ids, labels, strict=True)
        if label != -100
    ]
    n = len(fates)
    assert n > 3000
    # a random token is the same one by chance once in len(WORDS); four standard deviations of a binomial share
    for fate, share in (("mask", 0.8), ("random", 0.1 * (1 - 1 / len(WORDS)))):
        assert fates.count(fate) / n == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)
    assert all(token >= 5 or token in (2, 3, 4) for ids, _ in rows(batches) for token in ids)


def test_unknown_words_are_left_alone(tiny_lm):
    text = " ".join(["zzz"] * 8 + WORDS[:9])
    batches = pretraining_batches(tiny_lm, [text] * 30, n_sequences=30, max_length=32)
    assert all(label != 1 for _, labels in rows(batches) for label in labels)


# -- causal language modelling -----------------------------------------------------------------------------------------


def test_causal_labels_are_the_tokens_and_padding_does_not_matter():
    lm = tiny_gpt2()
    batches = pretraining_batches(lm, TEXTS, n_sequences=12, batch_size=12, max_length=16)
    alone = pretraining_batches(lm, TEXTS, n_sequences=12, batch_size=1, max_length=16)
    assert all(ids == labels for ids, labels in rows(batches))
    assert batches.n_predicted == sum(len(ids) - 1 for ids, _ in rows(batches))
    with torch.no_grad():
        logits = lm.model(**{k: v for k, v in batches[0].items() if k != "labels"}).logits
        for i, batch in enumerate(alone):
            n = batch["input_ids"].shape[1]
            loss = torch.nn.functional.cross_entropy(logits[i, : n - 1], batches[0]["labels"][i, 1:n])
            # the same arithmetic on another shape: single precision's rounding
            assert loss.item() == pytest.approx(lm.model(**batch).loss.item(), rel=1e-5)


# -- span corruption ---------------------------------------------------------------------------------------------------


def test_spans_put_back_at_their_sentinels_give_the_text():
    lm = tiny_t5()
    batches = pretraining_batches(lm, [" ".join(WORDS * 2)] * 40, n_sequences=40, batch_size=8, max_length=50)
    sentinels = [lm.tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(20)]
    for (ids, labels), text in zip(rows(batches), batches.texts, strict=True):
        used = [token for token in ids if token in sentinels]
        assert used == sentinels[: len(used)] == [token for token in labels if token in sentinels]
        assert ids[-1] == labels[-1] == lm.tokenizer.eos_token_id
        spans = {}
        for token in labels[:-1]:
            if token in sentinels:
                spans[token] = current = []
            else:
                current.append(token)
        assert all(spans.values())
        restored = [t for token in ids for t in (spans[token] if token in sentinels else [token])]
        original = lm.tokenizer(text)["input_ids"]
        assert restored == original
        n_cut = sum(map(len, spans.values()))
        assert n_cut == round(0.15 * (len(original) - 1))
        assert len(spans) == round(n_cut / 3)
    assert torch.isfinite(lm.model(**batches[0]).loss)


@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_parts_add_up(total, n, seed):
    n = min(n, total)
    parts = _parts(total, n, torch.Generator().manual_seed(seed))
    assert len(parts) == n
    assert sum(parts) == total
    assert min(parts) >= 1


@given(st.integers(8, 2000))
def test_spans_always_fit(length):
    n_cut, n_spans = _span_counts(length)
    assert 1 <= n_spans <= n_cut
    assert length - n_cut >= n_spans


def test_all_cuts_are_equally_likely():
    generator = torch.Generator().manual_seed(0)
    counts = {}
    for _ in range(3000):
        parts = tuple(_parts(5, 3, generator))
        counts[parts] = counts.get(parts, 0) + 1
    assert len(counts) == 6  # 4 choose 2
    assert max(abs(count - 500) for count in counts.values()) < 4 * 500**0.5


def test_span_needs_sentinels():
    with pytest.raises(ValueError, match=r"with 2 sentinel tokens .* with 1"):
        pretraining_batches(tiny_t5(n_sentinels=1), TEXTS, max_length=41)


# -- the same numbers at every look ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [None, tiny_gpt2, tiny_t5])
def test_a_sequence_does_not_depend_on_batch_size_or_on_how_many_follow(tiny_lm, make):
    lm = make() if make else tiny_lm
    few = pretraining_batches(lm, TEXTS, n_sequences=20, batch_size=3, max_length=14)
    many = pretraining_batches(lm, TEXTS, n_sequences=60, batch_size=16, max_length=14)
    again = pretraining_batches(lm, TEXTS, n_sequences=20, batch_size=20, max_length=14)
    assert rows(few) == rows(again) == rows(many)[:20]
    assert few.checksum == again.checksum != many.checksum
    assert [len(batch["input_ids"]) for batch in few] == [3] * 6 + [2]


def test_another_seed_draws_another_sample(tiny_lm):
    checksums = {
        pretraining_batches(tiny_lm, TEXTS, n_sequences=20, seed=seed, max_length=14).checksum for seed in (0, 1)
    }
    assert len(checksums) == 2


def test_global_random_numbers_are_untouched(tiny_lm):
    with unchanged(tiny_lm.model):
        pretraining_batches(tiny_lm, TEXTS, n_sequences=5, max_length=14)


def test_each_text_gives_one_sequence_before_any_gives_two(tiny_lm):
    texts = [" ".join([word] * 24) for word in WORDS]
    batches = pretraining_batches(tiny_lm, texts, n_sequences=2 * len(WORDS), max_length=14, batch_size=100)
    words = [text.split()[0] for text in batches.texts]
    assert sorted(words[: len(WORDS)]) == sorted(words[len(WORDS) :]) == sorted(WORDS)


def test_long_texts_are_cut_and_no_full_piece_is_lost(tiny_lm):
    generator = random.Random(0)
    text = " ".join(generator.choices(WORDS, k=10 * 9 + 7))  # the last 7 tokens are too few for a sequence
    with pytest.warns(UserWarning, match="hold 9 sequences"):
        batches = pretraining_batches(tiny_lm, [text], max_length=12)
    assert sorted(batches.texts) == sorted(" ".join(text.split()[i : i + 10]) for i in range(0, 90, 10))


def test_sorting_by_length_keeps_the_sequences(tiny_lm):
    plain = pretraining_batches(tiny_lm, TEXTS, n_sequences=30, max_length=16)
    ordered = pretraining_batches(tiny_lm, TEXTS, n_sequences=30, max_length=16, sort_by_length=True)
    lengths = [len(ids) for ids, _ in rows(ordered)]
    assert lengths == sorted(lengths)
    assert sorted(rows(plain)) == sorted(rows(ordered))


# -- Batches as a sequence ---------------------------------------------------------------------------------------------


def test_batches_are_a_sequence_that_a_reader_cannot_spoil(tiny_batches):
    tiny_batches[0].pop("labels")
    assert "labels" in tiny_batches[0]
    assert [b["input_ids"].tolist() for b in tiny_batches] == [b["input_ids"].tolist() for b in tiny_batches]
    part = tiny_batches[1:]
    assert isinstance(part, Batches)
    assert (part.n_sequences, part.texts) == (6, tiny_batches.texts[4:])
    assert rows(part) == rows(tiny_batches)[4:]
    with pytest.raises(IndexError):
        tiny_batches[3]
    with pytest.raises(AttributeError):
        tiny_batches.objective = "clm"


def test_the_checksum_covers_inputs_and_labels(tiny_batches):
    for key in ("input_ids", "labels"):
        first = dict(tiny_batches[0])
        first[key] = first[key].clone()
        first[key][0, 1] += 1
        assert replace(tiny_batches, batches=(first, *tiny_batches.batches[1:])).checksum != tiny_batches.checksum


def test_tables_and_html(tiny_batches):
    frame = tiny_batches.to_frame()
    assert list(frame.columns) == ["batch", "tokens", "predicted", "text"]
    assert frame["tokens"].tolist() == [len(ids) for ids, _ in rows(tiny_batches)]
    assert frame["predicted"].sum() == tiny_batches.n_predicted == sum(b["labels"].ne(-100).sum() for b in tiny_batches)
    sly = replace(tiny_batches, texts=("<script>alert(1)</script>", *tiny_batches.texts[1:]))
    assert "<script>" not in sly._repr_html_()
    assert "10 sequences in 3 batches" in repr(tiny_batches)


# -- where texts come from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_files_give_the_same_batches_as_the_texts(tiny_lm, tmp_path, suffix):
    import pandas as pd

    path = tmp_path / f"texts.{suffix}"
    frame = pd.DataFrame({"id": range(40), "review": TEXTS[:40]})
    if suffix == "txt":
        path.write_text("\n".join(TEXTS[:40]) + "\n")
    elif suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    settings = {"n_sequences": 10, "max_length": 16}
    expected = pretraining_batches(tiny_lm, TEXTS[:40], **settings)
    for source in (path, str(path)):
        assert pretraining_batches(tiny_lm, source, **settings).checksum == expected.checksum


def test_a_column_of_a_dataset_and_a_generator_will_do(tiny_lm):
    from datasets import Dataset

    table = Dataset.from_dict({"text": TEXTS})
    checksums = {
        pretraining_batches(tiny_lm, texts, n_sequences=10, max_length=16).checksum
        for texts in (table["text"], (text for text in TEXTS), tuple(TEXTS))
    }
    assert len(checksums) == 1


def test_the_bundled_corpus_is_every_held_out_file(tiny_lm, tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a-heldout.txt").write_text("\n".join(TEXTS[:20]))
    (tmp_path / "corpus" / "b-heldout.txt").write_text("\n\n".join(TEXTS[20:40]))
    (tmp_path / "corpus" / "b-train.txt").write_text("never read")
    monkeypatch.setattr("gdrop_viz.text.sources.data_folder", lambda: tmp_path)
    settings = {"n_sequences": 10, "max_length": 16}
    expected = pretraining_batches(tiny_lm, TEXTS[:40], **settings)
    assert pretraining_batches(tiny_lm, **settings).checksum == expected.checksum


def test_a_large_source_is_read_only_as_far_as_needed(tiny_lm):
    class Counting(list):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    from gdrop_viz.text.batches import _sample
    from gdrop_viz.text.corruption import Corruption

    source = Counting(sentences(2000))
    pieces = _sample(source, Corruption(tiny_lm, 16), torch.Generator().manual_seed(0))
    for _ in range(100):
        next(pieces)
    assert Counting.read < 600


# -- what the model and the tokenizer allow ----------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_the_longest_input_is_what_the_model_really_takes(padding_idx):
    from transformers import RobertaConfig, RobertaForMaskedLM

    if padding_idx is None:
        model = random_bert(max_position_embeddings=20)
    else:  # RoBERTa numbers its positions from padding_idx + 1
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = RobertaForMaskedLM(
            RobertaConfig(vocab_size=30, max_position_embeddings=20, pad_token_id=1, **size)
        ).eval()
    limit = longest_input(model)
    assert limit == (20 if padding_idx is None else 18)
    assert model(torch.full((1, limit), 5)).logits.shape[1] == limit
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))


def test_t5_takes_any_length():
    assert longest_input(tiny_t5().model) is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"texts": []}, ValueError, "at least one text"),
        ({"texts": ["", "  "]}, ValueError, "at least one text"),
        ({"texts": ["the cat"]}, ValueError, "at least 8 tokens"),
        ({"texts": [1, 2]}, TypeError, "str only, got int"),
        ({"texts": 3}, TypeError, "got int"),
        ({"texts": {"text": TEXTS}}, TypeError, "give its column"),
        ({"texts": "The cat.\nThe dog."}, ValueError, r"put it into a list"),
        ({"texts": "no/such.txt"}, FileNotFoundError, "does not exist"),
        ({"texts": "./texts.doc"}, FileNotFoundError, "does not exist"),
        ({"n_sequences": 0}, ValueError, "expected n_sequences as a whole number"),
        ({"batch_size": 2.5}, ValueError, "expected batch_size as a whole number"),
        ({"max_length": 9}, ValueError, "room for 7"),
        ({"max_length": 65}, ValueError, "within the 64 positions"),
    ],
)
def test_bad_input_is_one_clear_line(tiny_lm, changes, error, message):
    arguments = {"texts": TEXTS, "max_length": 16, **changes}
    with pytest.raises(error, match=message) as caught:
        pretraining_batches(tiny_lm, arguments.pop("texts"), **arguments)
    assert "\n" not in str(caught.value)


def test_wrong_models_and_tokenizers(tiny_lm, tiny_bert, tmp_path):
    with pytest.raises(TypeError, match="expected lm as a Pretrained"):
        pretraining_batches(tiny_bert, TEXTS)
    with pytest.raises(TypeError, match="as a transformers tokenizer"):
        pretraining_batches(Pretrained(tiny_bert, None), TEXTS)
    with pytest.raises(ValueError, match="with a mask token"):
        pretraining_batches(Pretrained(tiny_bert, plain_tokenizer()), TEXTS, max_length=16)
    small = Pretrained(random_bert(vocab_size=10), word_tokenizer())
    with pytest.raises(ValueError, match=r"expected tokens below 10, as many as .* model\.resize_token_embeddings"):
        pretraining_batches(small, TEXTS, max_length=16)


@pytest.mark.parametrize("added", [["zzz"], [f"zzz{i}" for i in range(30)]])
def test_a_tokenizer_that_was_extended_without_its_model(added):
    tokenizer = word_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(added)
    lm = Pretrained(random_bert(vocab_size=size), tokenizer)
    text = " ".join([*WORDS[:9], added[-1]])
    with pytest.raises(
        ValueError, match=f"expected tokens below {size}, .*, got {len(tokenizer) - 1} from the tokenizer"
    ):
        pretraining_batches(lm, [text] * 20, n_sequences=5, max_length=16)
    lm.model.resize_token_embeddings(len(tokenizer))
    batches = pretraining_batches(lm, [text] * 20, n_sequences=5, max_length=16)
    assert max(int(batch["input_ids"].max()) for batch in batches) < len(tokenizer)


@pytest.mark.parametrize(
    ("words", "share"), [(["今天", "天气"], "18%"), (["\U0001f600"], "10%"), (["Ďakujem"] * 9, "50%")]
)
def test_the_share_of_unknown_tokens_is_said(tiny_lm, words, share):
    texts = [" ".join([*WORDS[:9], *words])] * 20
    with pytest.warns(UserWarning, match=rf"{share} of the tokens are unknown to the tokenizer \(\[UNK\]\)"):
        pretraining_batches(tiny_lm, texts, n_sequences=5, max_length=32)


def test_a_text_of_unknown_words_alone_says_why_there_is_nothing_to_predict(tiny_lm):
    with pytest.raises(ValueError, match=r"none of the 3 texts has so many; 100% of the tokens are unknown"):
        pretraining_batches(tiny_lm, [" ".join(["今天"] * 20)] * 3, max_length=16)


def test_known_texts_get_no_warning(tiny_lm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretraining_batches(tiny_lm, TEXTS, n_sequences=5, max_length=16)


def test_which_column_is_the_text(tiny_lm, tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"title": TEXTS[:9], "body": TEXTS[9:18], "stars": range(9)})
    path = tmp_path / "reviews.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"expected column= .* title, body, got none"):
        pretraining_batches(tiny_lm, path, max_length=16)
    with pytest.raises(ValueError, match=r"expected column= .* got 'stars'"):
        pretraining_batches(tiny_lm, path, max_length=16, column="stars")
    with pytest.raises(TypeError, match="give its column"):
        pretraining_batches(tiny_lm, frame, max_length=16)
    batches = pretraining_batches(tiny_lm, path, max_length=16, column="body", n_sequences=5)
    assert set(batches.texts) <= {*TEXTS[9:18]}
