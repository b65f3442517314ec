"""Bundled data: where it is looked for, and what its README says."""

from __future__ import annotations

import csv
import hashlib
import importlib
import random
import re
import shutil
from collections import Counter
from itertools import pairwise

import pytest

from gdrop_viz.base.saved import DamagedFile
from gdrop_viz.models import bundled
from gdrop_viz.models.bundled import bundled_models, bundled_tasks, data_folder
from gdrop_viz.text.tasks import load_task

TASKS = data_folder() / "tasks"


@pytest.fixture
def builder(monkeypatch):
    """The script that made the tasks."""
    monkeypatch.syspath_prepend(data_folder())
    return importlib.import_module("build_tasks")


def table(name):
    with (TASKS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_names():
    assert {"sentiment", "rating", "acceptability"} <= set(bundled_tasks())
    for name in bundled_models():
        assert (data_folder() / "models" / name / "model.safetensors").is_file()


def test_an_installed_wheel_has_its_data_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "gdrop_viz"
    (package / "data" / "models" / "a-model").mkdir(parents=True)
    (package / "data" / "models" / "a-model" / "config.json").write_text("{}")
    monkeypatch.setattr(bundled, "__file__", str(package / "models" / "bundled.py"))
    assert data_folder() == (package / "data").resolve()
    assert bundled_models() == ["a-model"]
    assert bundled_tasks() == []


def test_a_package_without_data_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "gdrop_viz" / "models" / "bundled.py"))
    with pytest.raises(FileNotFoundError, match="reinstall gdrop_viz"):
        data_folder()


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sentiment", "rating", "acceptability"])
def test_the_readme_tells_the_checksum_and_the_counts(name):
    readme = (TASKS / "README.md").read_text(encoding="utf-8")
    assert f"{hashlib.sha256((TASKS / f'{name}.csv').read_bytes()).hexdigest()}  {name}.csv" in readme
    counts = Counter(row["split"] for row in table(name))
    for split, count in counts.items():
        assert f"| {name} | {split} | {count:,} |" in readme
    task = load_task(name)
    assert {split: len(rows) for split, rows in task.splits.items()} == counts
    assert sum(counts.values()) > 9000


@pytest.mark.parametrize("name", ["sentiment", "rating", "acceptability"])
def test_a_changed_label_of_a_bundled_task_is_noticed(name, tmp_path, monkeypatch):
    """The table stays valid, so nothing but its checksum tells."""
    copy = tmp_path / "gdrop_viz" / "data" / "tasks" / f"{name}.csv"
    copy.parent.mkdir(parents=True)
    shutil.copy(TASKS.parent / "checksums.json", copy.parent.parent)
    content = (TASKS / f"{name}.csv").read_bytes()
    copy.write_bytes(content)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "gdrop_viz" / "models" / "bundled.py"))
    load_task(name)
    label = re.compile(rb",([0-3])(?=[,.])").search(content, len(content) // 2)
    changed = bytearray(content)
    changed[label.start(1)] ^= 1  # 0 becomes 1, 2 becomes 3
    copy.write_bytes(changed)
    with pytest.raises(DamagedFile, match=rf"{name}\.csv is damaged"):
        load_task(name)


@pytest.mark.parametrize("name", ["sentiment", "rating", "acceptability"])
def test_no_text_is_in_two_splits(name):
    texts = [row["text"].lower() for row in table(name)]
    assert len(set(texts)) == len(texts)


def test_kinds_metrics_and_balance():
    assert [load_task(name).metrics[0] for name in ("sentiment", "rating", "acceptability")] == [
        "accuracy",
        "pearson",
        "matthews",
    ]
    for name in ("sentiment", "acceptability"):
        for rows in load_task(name).splits.values():
            assert 0.45 < sum(rows["label"]) / len(rows) < 0.55


def test_sentiment_is_the_sign_of_the_rating_in_the_same_split():
    ratings = {row["text"]: row for row in table("rating")}
    sentiment = {row["text"]: row for row in table("sentiment")}
    assert all(-4 <= float(row["label"]) <= 4 for row in ratings.values())
    for text, row in ratings.items():
        value = float(row["label"])
        if text in sentiment:
            assert sentiment[text]["label"] == str(int(value > 0))
            assert sentiment[text]["split"] == row["split"]
        else:
            assert abs(value) <= 0.5
    assert set(sentiment) < set(ratings)


def test_each_corrupted_sentence_has_its_real_twin_in_its_split(builder):
    rows = table("acceptability")
    corrupted = {row["text"]: row for row in rows if row["label"] == "0"}
    real = [row for row in rows if row["label"] == "1"]
    assert len(real) == len(corrupted) == builder.N_PAIRS
    for row in real:
        wrong, kind = builder.corrupted(row["text"])
        assert corrupted[wrong]["corruption"] == kind
        assert corrupted[wrong]["split"] == row["split"] == builder.split_of(row["text"])
        assert row["corruption"] == "none"


@pytest.mark.parametrize(
    ("kind", "sentence", "wrong"),
    [
        ("swapped_words", "See the film today.", "See film the today."),
        ("agreement", "Now it is over at last.", "Now it are over at last."),
        ("dropped_determiner", "They met in a garden.", "They met in garden."),
        ("dropped_verb", "The film is good fun.", "The film good fun."),
        ("doubled_word", "Full of joy.", "Full of of joy."),
        ("pronoun_case", "Then they were silent.", "Then them were silent."),
        ("agreement", "If it was so then.", None),
        ("dropped_determiner", "They met in a few places.", None),
        ("shuffled_span", "Too short to shuffle.", None),
    ],
)
def test_corruptions_do_what_they_say(builder, kind, sentence, wrong):
    result = getattr(builder, kind)(sentence.split(), random.Random(0))
    assert result == (None if wrong is None else wrong.split())


def test_a_shuffled_span_keeps_its_words_but_no_neighbours(builder):
    words = "It was one of those very long autumn evenings again.".split()
    shuffled = builder.shuffled_span(words, random.Random(0))
    assert sorted(shuffled) == sorted(words)
    assert len({*pairwise(words)} - {*pairwise(shuffled)}) == 6


def test_sentences_end_at_full_stops_but_not_at_titles(builder):
    text = "Then Mr. Weston smiled at his wife. She had never “looked” so well before! She was happy in this house."
    assert list(builder.sentences_of(text)) == ["Then Mr. Weston smiled at his wife.", "She was happy in this house."]
