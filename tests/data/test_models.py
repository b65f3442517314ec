"""The bundled models: what data/README.md says they are."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path

import pytest
import torch

DATA = Path(__file__).resolve().parents[2] / "data"
sys.path.insert(0, str(DATA))

from held_out import held_out_slice  # noqa: E402
from recipes import RECIPES  # noqa: E402
from safetensors.torch import load_file, safe_open  # noqa: E402
from token_batches import token_stream  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

NAMES = sorted(folder.name for folder in (DATA / "models").iterdir() if (folder / "config.json").is_file())


def stated(name: str, file: str) -> dict:
    return json.loads((DATA / "models" / name / file).read_text())


def test_every_shipped_file_has_its_stated_checksum():
    checksums = json.loads((DATA / "checksums.json").read_text())
    shipped = [path for folder in ("models", "corpus") for path in (DATA / folder).rglob("*") if path.is_file()]
    shipped += (DATA / "tasks").glob("*.csv")
    assert {path.relative_to(DATA).as_posix() for path in shipped} == set(checksums)
    for path in shipped:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == checksums[path.relative_to(DATA).as_posix()], path


def test_bert_mini_is_bundled():
    assert "bert-mini" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_loads_without_a_word_about_keys(name, caplog):
    with caplog.at_level(logging.WARNING):
        model, info = RECIPES[name].auto.from_pretrained(DATA / "models" / name, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(DATA / "models" / name)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert not caplog.records
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert len(tokenizer) == model.config.vocab_size
    # the scripts state the number of parameters that the weights really have
    assert sum(p.numel() for p in model.parameters()) == stated(name, "training.json")["parameters"]
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates
    assert set(rates) == {0.1}


@pytest.mark.parametrize("name", NAMES)
def test_fits_the_repository(name):
    for file in (DATA / "models" / name).glob("*.safetensors"):
        assert file.stat().st_size < 25e6, file


@pytest.mark.parametrize("name", NAMES)
def test_stated_held_out_loss_is_measured_again(name, tmp_path):
    folder, recipe = DATA / "models" / name, RECIPES[name]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), recipe.auto.from_pretrained(folder)
    text = DATA / "corpus" / "austen-heldout.txt"
    stream = token_stream(text, tokenizer, tmp_path, separator=recipe.separator(tokenizer))
    again = held_out_slice(model, stream, recipe.corrupt(tokenizer, training=False))
    told = stated(name, "held_out.json")
    # the noise is drawn from a seed, so only rounding of another machine's arithmetic may differ
    assert again["loss"] == pytest.approx(told["slice"]["loss"], rel=0.02)
    # the slice is a sample of the text whose loss the README states
    assert abs(again["loss"] - told["sources"]["austen"]["loss"]) < 5 * again["standard_error"]


@pytest.mark.parametrize("name", NAMES)
def test_context_is_worth_something(name):
    for source, measured in stated(name, "held_out.json")["sources"].items():
        assert measured["loss"] < measured["unigram"], source
        assert measured["bigram"] < measured["unigram"], source


def test_bert_mini_beats_the_word_to_the_left():
    for source in ("austen", "brown", "imdb"):
        measured = stated("bert-mini", "held_out.json")["sources"][source]
        assert measured["loss"] < measured["bigram"], source


def test_second_moments_belong_to_the_weights():
    folder = DATA / "models" / "bert-mini"
    moments = load_file(folder / "exp_avg_sq.safetensors")
    with safe_open(folder / "exp_avg_sq.safetensors", "pt") as file:
        assert float(file.metadata()["scale"]) > 0
    weights = load_file(folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in moments.items()} == {n: t.shape for n, t in weights.items()}
    # rows that no training sequence reached: positions from 128 on, the second sentence of a pair
    reached = {"position_embeddings": 128, "token_type_embeddings": 1}
    for name, tensor in moments.items():
        assert torch.isfinite(tensor).all(), name
        assert (tensor >= 0).all(), name
        rows = next((n for part, n in reached.items() if part in name), len(tensor))
        assert (tensor[rows:] == 0).all(), name
        # a scale that is too small would leave a tensor empty; the key biases have no gradient but rounding
        assert name.endswith("key.bias") or (tensor[:rows] > 0).float().mean() > 0.9, name


def test_held_out_text_is_held_out():
    train = (DATA / "corpus" / "austen-train.txt").read_text(encoding="utf-8").splitlines()
    held_out = (DATA / "corpus" / "austen-heldout.txt").read_text(encoding="utf-8").splitlines()
    assert 0.05 < sum(map(len, held_out)) / sum(map(len, train + held_out)) < 0.2
    assert not set(train) & {line for line in held_out if len(line) > 40}


def test_sentences_of_the_tasks_are_not_in_the_training_text():
    import pandas as pd
    from build_corpus import Contamination

    # acceptability's real sentences partly come from the held-out novels: they too must be absent here
    for task in ("sentiment", "acceptability"):
        sentences = pd.read_csv(DATA / "tasks" / f"{task}.csv")["text"].sample(800, random_state=0)
        repeated = Contamination(sentence for sentence in sentences if len(sentence.split()) >= 8)
        train = (DATA / "corpus" / "austen-train.txt").read_text(encoding="utf-8").splitlines()
        assert [line for line in train[::4] if line in repeated] == []
