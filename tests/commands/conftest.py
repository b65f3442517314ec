"""A small study on disk: a model's folder, a text file and a labelled table, and a way to run commands on them."""

from __future__ import annotations

import pytest

from tests.conftest import random_bert, sentences, word_tokenizer


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Folder with model/, text.txt and task.csv."""
    from gdrop_viz.models.pretrained import Pretrained

    folder = tmp_path_factory.mktemp("study")
    Pretrained(random_bert(), word_tokenizer(), objective="mlm").save(folder / "model")
    (folder / "text.txt").write_text("\n".join(sentences(60)))
    rows = [f"{text},{int('cat' in text)}" for text in sentences(120, seed=1)]
    (folder / "task.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return folder


def flags(study, output, **more) -> list[str]:
    """The options that all commands of the study share."""
    settings = {"model": study / "model", "output": output, "max-length": 16, **more}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]
