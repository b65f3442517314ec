"""The long comparison: resumable seed by seed; bundled results of the bundled models."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gdrop_viz as gv
from gdrop_viz.models.bundled import bundled_findings, bundled_models, data_folder
from gdrop_viz.text.tasks import Task
from tests.finetuning.conftest import animal_rows

SCRIPT = Path(__file__).resolve().parents[2] / "notebooks" / "findings.py"
QUICK = {"epochs": 1, "progress": False}


def load_findings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("findings", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["findings"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


findings = load_findings()


@pytest.fixture
def study(tiny_lm, monkeypatch) -> object:
    """A small study on a tiny model and task."""
    task = Task("animals", train=animal_rows(32, seed=0), validation=animal_rows(16, seed=1))
    means = {name: 1.0 + i for i, (name, _) in enumerate(tiny_lm.model.named_parameters())}
    guided = gv.guided_dropout(tiny_lm.model, gv.Fisher.from_means(means))
    monkeypatch.setattr(findings, "model_and_schedule", lambda model: (tiny_lm, guided))
    monkeypatch.setattr(findings, "weights_checksum", lambda model: "tiny")
    monkeypatch.setattr(gv, "load_task", lambda name: task)
    return findings.Study("tiny", "animals", ("guided", "same mean", "shuffled"), (1.0,))


def test_seed_by_seed_resumable_and_never_repeated(study, tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "output"
    with pytest.raises(RuntimeError, match="pulled the plug"):
        findings.run_studies([study], _broken_after(2), runs, output, sizes=(32, 16), **QUICK)
    partial = gv.Comparison.load(output / "tiny-animals.json")
    assert partial.runs["seed"].unique().tolist() == [0, 1]
    assert partial.paired("guided", "same mean")["n"].tolist() == [2], "whatever is there is paired"
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("*.json")}
    assert len(before) == 2 * 3

    findings.run_studies([study], range(3), runs, output, sizes=(32, 16), **QUICK)
    whole = gv.Comparison.load(output / "tiny-animals.json")
    assert whole.summary()["n"].tolist() == [3] * 3
    assert {file: file.stat().st_mtime_ns for file in before} == before, "finished runs are found, not repeated"
    first_two = whole.runs[whole.runs["seed"] < 2].reset_index(drop=True)
    assert first_two.equals(partial.runs)
    # each seed has a shuffled order of its own, so the arm is no single lucky order
    shuffled = [json.loads(file.read_text()) for file in runs.rglob("*.json")]
    rates = {run["settings"]["seed"]: run["settings"]["arm"] for run in shuffled if run["about"]["arm"] == "shuffled"}
    assert rates[0] != rates[1]

    findings.run_studies([study], range(1), runs, output, sizes=(32, 16), **QUICK)
    assert gv.Comparison.load(output / "tiny-animals.json").runs.equals(whole.runs), "a shorter run undoes nothing"


def _broken_after(n: int):
    yield from range(n)
    raise RuntimeError("pulled the plug")


def test_the_command_names_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        findings.main(["bert-mini-poetry"])
    assert "a study must be one of bert-mini-sentiment, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        findings.main(["bert-mini-sentiment", "--seeds", "0"])
    assert "--seeds and --workers must be at least 1" in capsys.readouterr().err


def test_list_says_what_is_there(capsys, tmp_path):
    findings.main(["--list", "--output", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [f"{name}: nothing yet" for name in findings.STUDIES]


@pytest.mark.parametrize("name", bundled_findings())
def test_bundled_results_are_small_and_of_the_bundled_model(name):
    path = data_folder() / "findings" / f"{name}.json"
    assert path.stat().st_size < 1_000_000
    study, result = findings.STUDIES[name], gv.Comparison.load(path)
    assert result.metadata["weights_sha256"] == findings.weights_checksum(study.model), (
        f"{study.model} has changed since: python notebooks/findings.py {name}"
    )
    assert (tuple(result.arms), tuple(result.fractions)) == (study.arms, study.fractions)
    scores = result.scores()
    seeds = scores["seed"].nunique()
    assert len(scores) == seeds * len(study.arms) * len(study.fractions), "every seed is complete"
    assert result.metadata["n_train"] == findings.N_TRAIN
    assert set(result.metadata["guided_rates"].values()) >= {findings.LOWER, findings.UPPER}


def test_every_study_is_about_bundled_data():
    assert {study.task for study in findings.STUDIES.values()} <= {"sentiment", "rating", "acceptability"}
    assert "bert-mini" in bundled_models()
