"""The scripts that make the bundled models: they do what their docstrings say."""

from __future__ import annotations

import gzip
import struct
import sys
import zlib
from collections import Counter
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

DATA = Path(__file__).resolve().parents[2] / "data"
sys.path.insert(0, str(DATA))

import warm_start  # noqa: E402
from build_corpus import Contamination, detokenized, paragraphs_of, word_groups  # noqa: E402
from held_out import CountModels, held_out_losses  # noqa: E402
from r_data import read_lazy_load  # noqa: E402
from token_batches import IGNORE, Causal, Masking, SpanCorruption, TrainingSteps, held_out_rows  # noqa: E402

MASKING = Masking(cls=1, sep=2, mask=3, vocabulary=50, rate=0.15)


def text_of(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 50, (rows, length))


def test_masking_hides_the_stated_share_and_keeps_the_rest():
    text = text_of(2000, 40)
    batch = MASKING(text, np.random.default_rng(0))
    ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    assert (ids[:, 0] == 1).all()
    assert (ids[:, -1] == 2).all()
    predicted = labels != IGNORE
    assert (predicted.sum(1) == 6).all()
    assert not predicted[:, [0, -1]].any()
    assert (labels[:, 1:-1][predicted[:, 1:-1]] == text[predicted[:, 1:-1]]).all()
    assert (ids[:, 1:-1][~predicted[:, 1:-1]] == text[~predicted[:, 1:-1]]).all()
    # 12,000 draws: the standard error of a share of 0.8 is 0.004
    assert (ids[predicted] == 3).mean() == pytest.approx(0.8, abs=0.02)
    assert (ids[predicted] == labels[predicted]).mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.02)


def test_span_corruption_can_be_undone():
    spans = SpanCorruption(sentinels=tuple(range(100, 120)), eos=1)
    text = text_of(20, 60)
    batch = spans(text, np.random.default_rng(0))
    for row, source, target in zip(text, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        assert source[-1] == target[-1] == 1
        pieces, current = {}, None
        for token in target[:-1]:
            if token >= 100:
                pieces[current := token] = []
            else:
                pieces[current].append(token)
        restored = [piece for token in source[:-1] for piece in (pieces.pop(token) if token >= 100 else [token])]
        assert restored == row.tolist()
        assert not pieces
        assert sum(token < 100 for token in target[:-1]) == round(0.15 * 60)


def test_a_step_can_be_made_again_without_the_ones_before_it():
    streams = {"a": np.arange(10, 400), "b": np.arange(400, 900)}
    make = {"n_steps": 9, "tokens": 64, "lengths": (16, 32), "seed": 5}
    steps = TrainingSteps(streams, {"a": 3.0, "b": 1.0}, Causal(), **make)
    again = TrainingSteps(streams, {"a": 3.0, "b": 1.0}, Causal(), **make)
    first = [steps[i]["input_ids"] for i in range(5)]
    assert torch.equal(again[4]["input_ids"], first[4])
    assert not torch.equal(first[0], first[2])
    assert first[0].shape == (4, 16)
    assert first[1].shape == (2, 32)
    assert all((rows.diff(dim=1) == 1).all() for rows in first), "a row is a run of one stream"


def test_held_out_rows_do_not_overlap():
    rows = held_out_rows(np.arange(1003), 10, 500)
    assert rows.shape == (100, 10)
    assert len(np.unique(rows)) == 1000


def test_count_models_are_the_formulas():
    stream = np.random.default_rng(0).integers(0, 6, 300)
    counts = CountModels(stream, 8)
    singles, pairs = Counter(stream.tolist()), Counter(zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True))
    total = 0.0
    for token in range(8):
        unigram = (singles[token] + 1) / (300 + 8)
        assert counts.unigram(np.array([token]))[0] == pytest.approx(-log(unigram))
        followers = {pair: n for pair, n in pairs.items() if pair[0] == 2}
        n, kinds = sum(followers.values()), len(followers)
        expected = max(pairs[(2, token)] - 0.75, 0) / n + 0.75 * kinds / n * unigram
        assert counts.bigram(np.array([token]), np.array([2]))[0] == pytest.approx(-log(expected))
        total += expected
        # nothing is known about what follows an unknown token or one that never occurred
        for left in (-1, 7):
            assert counts.bigram(np.array([token]), np.array([left]))[0] == pytest.approx(-log(unigram))
    assert total == pytest.approx(1.0)


def small_bert(layers: int, width: int) -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 4,
        intermediate_size=2 * width,
        max_position_embeddings=32,
    )
    return BertForMaskedLM(config).eval()


def test_held_out_losses_agree_with_the_model_itself():
    model, text = small_bert(1, 8), text_of(5, 20)
    losses, rows, columns = held_out_losses(model, text, MASKING, batch_size=5)
    batch = MASKING(text, np.random.default_rng([0, 0]))
    with torch.no_grad():
        assert losses.mean() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    targets = batch["labels"][batch["labels"] != IGNORE].numpy()
    assert (text[rows, columns] == targets).all()


def test_doubling_the_width_without_noise_changes_no_prediction(monkeypatch):
    monkeypatch.setattr(warm_start, "NOISE", 0.0)
    monkeypatch.setattr(warm_start, "DEPTH", 1)
    narrow, wide = small_bert(2, 8), small_bert(2, 16)
    with torch.no_grad():
        for parameter in narrow.parameters():  # biases and norms start at 0 and 1, which would hide mistakes
            parameter.add_(0.3 * torch.randn_like(parameter))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in narrow.state_dict().items()
        if "decoder" not in name and "position_ids" not in name
    }
    missing, unexpected = wide.load_state_dict(warm_start.widened_and_stacked(old), strict=False)
    assert not unexpected
    assert all("decoder" in name for name in missing)
    wide.tie_weights()
    ids = torch.from_numpy(text_of(3, 12))
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, narrow(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_token_starts_as_the_mean_of_its_word_pieces():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "good": 1, "##ness": 2, "ness": 3}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    words = Tokenizer(models.BPE({"<end>": 0, "Ġgood": 1, "ness": 2, "Ġness": 3, "Ġgoodness": 4, "Ġ": 5}, []))
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    rows = warm_start.pooled_embeddings(tokenizer, PreTrainedTokenizerFast(tokenizer_object=pieces), table)
    assert rows.mean(0).abs().max() < 1e-6
    assert rows.std() == pytest.approx(1)
    # mean and scale are taken away, so distances between rows are what remains of the table
    distance = (rows[:, None] - rows).norm(dim=-1)
    unit = distance[1, 2] / 2**0.5  # from good to ##ness, which a token without a blank before it continues
    assert distance[4, 1] / unit == pytest.approx(0.5**0.5)  # good ##ness lies half way
    assert distance[3, 1] / unit == pytest.approx(41**0.5)  # a word of its own is another piece


def test_steps_in_proportion_to_the_tensors():
    from pretrain import WEIGHT_DECAY, optimizer_of
    from recipes import RECIPES

    model = small_bert(1, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = optimizer_of(model, RECIPES["t5-mini"])
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate, decay = rates[id(parameter)]
        assert rate == pytest.approx(
            RECIPES["t5-mini"].learning_rate * parameter.detach().norm() / parameter.numel() ** 0.5
        )
        assert decay == (WEIGHT_DECAY if parameter.ndim > 1 else 0), name
    assert {group["lr"] for group in optimizer_of(model, RECIPES["gpt2-mini"]).param_groups} == {2e-3}


def xdr(flags: int, *parts: bytes) -> bytes:
    return struct.pack(">I", flags) + b"".join(parts)


def test_r_data_are_read_as_r_writes_them(tmp_path):
    def integers(*values: int) -> bytes:
        return struct.pack(f">{len(values)}i", *values)

    def char(text: str) -> bytes:
        return xdr(9, integers(len(text.encode())), text.encode())

    def strings(*texts: str) -> bytes:
        return xdr(16, integers(len(texts)), *map(char, texts))

    def named_list(names: tuple[str, ...], *values: bytes) -> bytes:
        attribute = xdr(2 | 1 << 10, xdr(1, char("names")), strings(*names), xdr(254))
        return xdr(19 | 1 << 9, integers(len(values)), *values, attribute)

    header = b"X\n" + integers(3, 0, 0, 5) + b"UTF-8"
    record = header + strings("It is a truth", "", "naïve")
    stored = struct.pack(">I", len(record)) + zlib.compress(record)
    variables = named_list(("novel",), xdr(13, integers(2, 0, len(stored))))
    index = header + named_list(("variables", "compressed"), variables, xdr(10, integers(1, 1)))
    (tmp_path / "Rdata.rdb").write_bytes(stored)
    (tmp_path / "Rdata.rdx").write_bytes(gzip.compress(index))
    assert read_lazy_load(tmp_path) == {"novel": ["It is a truth", "", "naïve"]}


def test_text_is_put_together_again():
    assert (
        detokenized("`` Why ? ? '' she asked ( twice ) ; ; he left .".split()) == '"Why?" she asked (twice); he left.'
    )
    assert paragraphs_of(["one", "two", " ", "three"]) == ["one two", "three"]


def test_contamination_finds_repeated_sentences_only():
    long = "the rock is destined to be the new hero of our time and more"
    found = Contamination([long, "effective but tepid biopic", "too short"])
    assert "He said: The Rock is destined, to be the NEW hero of it" in found
    assert "an effective, but tepid biopic!" in found
    assert "the rock is destined to be something else" not in found
    assert "too short" not in found
    assert word_groups("a b c") == set()
