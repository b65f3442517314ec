"""The paper's protocol: its command, its arms and the table beside the published figures."""

from __future__ import annotations

import pandas as pd
import pytest

from gdrop_viz.studies.paper import PUBLISHED, beside_published, paper_protocol
from tests.conftest import sentences


@pytest.fixture
def local(tiny_lm, tmp_path):
    """A model folder, pretraining text and two tasks in GLUE's file layout."""
    tiny_lm.save(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(sentences(40)))
    columns = {"cola": ["sentence"], "stsb": ["sentence1", "sentence2"], "mnli": ["premise", "hypothesis"]}
    mnli = {"train": 60, "validation_matched": 20, "validation_mismatched": 20}
    label = {"cola": lambda i: i % 2, "stsb": lambda i: 0.5 * (i % 10), "mnli": lambda i: i % 3}
    for task in columns:
        folder = tmp_path / "glue" / task
        folder.mkdir(parents=True)
        for split, n in (mnli if task == "mnli" else {"train": 60, "validation": 20}).items():
            table = pd.DataFrame({column: sentences(n, seed=i + n) for i, column in enumerate(columns[task])})
            table["label"] = [label[task](i) for i in range(n)]
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return tmp_path


def test_the_command_runs_end_to_end_and_resumes(local, run):
    command = ["paper", "--output", local / "runs", "--model", local / "model", "--glue", local / "glue"]
    command += ["--text", local / "text.txt", "--sequences", 16, "--task", "cola", "--seeds", 2]
    command += ["--epochs", 1, "--n-train", 36, "--n-validation", 12]

    def figures() -> list[str]:
        done = run(*command)
        assert done.exit_code == 0, done.output
        return [line for line in done.stdout.splitlines() if "cola" in line]

    first = "\n".join(figures())
    assert "60.96" in first  # the authors' figure for CoLA
    assert "cola: 50 % of the data, matthews: guided and " in first
    runs = {file: file.stat().st_mtime_ns for file in (local / "runs").rglob("*") if file.is_file()}
    assert len(runs) >= 2 * 2 * 6  # fractions, seeds, arms
    assert "\n".join(figures()) == first
    assert runs == {file: file.stat().st_mtime_ns for file in (local / "runs").rglob("*") if file.is_file()}


def test_the_table(local, tiny_lm):
    import gdrop_viz as gv

    means = {name: 1.0 + i for i, (name, _) in enumerate(tiny_lm.model.named_parameters())}
    results = paper_protocol(
        tiny_lm,
        gv.Fisher.from_means(pd.Series(means)),
        path=local / "runs",
        tasks=["stsb"],
        fractions=[0.5],
        seeds=[0, 1, 2],
        epochs=1,
        glue=local / "glue",
        progress=False,
    )
    table = beside_published(results)
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["published"], row["metric"], row["seeds"]) == (PUBLISHED["stsb", 0.5], "pearson", 3)
    mean = results["stsb"].summary().set_index("arm").loc["guided", "mean"]
    assert row["guided"].startswith(f"{100 * mean:.2f} [")
    assert results["stsb"].metadata["seeds"] == [0, 1, 2]
    # each seed shuffles and splits the pooled rows anew
    assert results["stsb"].metadata["n_train"] == 64
    assert results["stsb"].metadata["batch_size"] == 18


def test_mnli_has_a_line_for_each_validation_set(local, tiny_lm):
    import gdrop_viz as gv

    means = {name: 1.0 + i for i, (name, _) in enumerate(tiny_lm.model.named_parameters())}
    settings = {"fractions": [1.0], "seeds": [0, 1], "epochs": 1, "n_train": 18, "progress": False}
    results = paper_protocol(
        tiny_lm,
        gv.Fisher.from_means(pd.Series(means)),
        path=local / "runs",
        tasks=["mnli"],
        glue=local / "glue",
        **settings,
    )
    table = beside_published(results).set_index("task")
    assert list(table.index) == ["mnli", "mnli (mismatched)"]
    rows = results["mnli"].runs
    wanted = (rows["split"] == "validation_mismatched") & (rows["metric"] == "accuracy") & (rows["arm"] == "guided")
    assert table.loc["mnli (mismatched)", "guided"].startswith(f"{100 * rows.loc[wanted, 'value'].mean():.2f} [")
