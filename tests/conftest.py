"""Small random models and texts that every test may use; what each test costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# two threads at most: the suite runs on small machines, often several workers side by side
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")

# the same examples in every run: a red build says something about the change, not about the dice
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# tests that need a second or more, as `make durations` has measured it; `make check` leaves them out
SLOW = Path(__file__).parent / "slow_tests.txt"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = set(SLOW.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.stash[_BEGUN] = _cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Note what the test cost, for the report in XML."""
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu", f"{_cpu_seconds() - item.stash[_BEGUN]:.2f}"))


_BEGUN = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    """Of this process and its children."""
    return sum(os.times()[:4])


WORDS = (
    "the a cat dog bird house tree river old young red blue sees likes finds and with near small big "
    "man woman child book letter sea wind day night walks sleeps sings writes reads runs never often"
).split()


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return `count` made-up sentences of 6 to 14 known words."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    return [" ".join(WORDS[draw(len(WORDS))] for _ in range(6 + draw(9))) for _ in range(count)]


def word_tokenizer():
    """A word-level tokenizer with BERT's special tokens, made in memory."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def random_bert(seed: int = 0, **changes):
    """A random two-layer BertForMaskedLM in eval mode, dropout 0.1, with the vocabulary of `word_tokenizer`."""
    from transformers import BertConfig, BertForMaskedLM

    settings = {
        "vocab_size": 5 + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    return BertForMaskedLM(BertConfig(**{**settings, **changes})).eval()


@pytest.fixture
def tiny_bert():
    return random_bert()


@pytest.fixture
def tiny_lm(tiny_bert):
    from gdrop_viz.models.pretrained import Pretrained

    return Pretrained(tiny_bert, word_tokenizer(), objective="mlm", name="tiny")


@pytest.fixture
def tiny_batches(tiny_lm):
    from gdrop_viz.text.batches import pretraining_batches

    return pretraining_batches(tiny_lm, sentences(40), n_sequences=10, batch_size=4, max_length=12)


@pytest.fixture
def run():
    """Run a command in this process; gives typer's result (exit_code, output)."""
    from typer.testing import CliRunner

    from gdrop_viz.__main__ import app

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run
