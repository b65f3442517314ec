"""Headless commands: the numbers of the library, work that goes on where it was stopped, clear refusals."""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gdrop_viz as gv
from gdrop_viz.finetuning import Comparison
from tests.commands.conftest import flags

ROOT = Path(__file__).parents[2]


def fisher_by_hand(study, n=20, **settings):
    lm = gv.load_pretrained(study / "model")
    batches = gv.pretraining_batches(
        lm, study / "text.txt", n_sequences=n, batch_size=16, max_length=16, progress=False
    )
    return lm, gv.fisher_information(lm.model, batches, progress=False, **settings)


def test_a_study_of_four_commands(study, run, tmp_path):
    results = tmp_path / "results"
    text = ["--text", study / "text.txt"]
    done = run("fisher", *flags(study, results, sequences=20), *text)
    assert done.exit_code == 0, done.output
    lm, by_hand = fisher_by_hand(study)
    fisher = gv.Fisher.load(results / "fisher.safetensors", model=lm.model)
    assert fisher.means.equals(by_hand.means)
    assert all((fisher.scores[name] == score).all() for name, score in by_hand.scores.items())
    assert not list(results.glob("*checkpoint*"))

    shared = flags(study, results, sequences=6, points=3, extent=0.5, share=0.05)
    done = run("landscape", *shared, *text, "--move", "top", "--move", "all", "--no-equal-distance")
    assert done.exit_code == 0, done.output
    batches = gv.pretraining_batches(lm, study / "text.txt", n_sequences=6, max_length=16, progress=False)
    top = gv.top_k(by_hand, 0.05)
    plane = [gv.random_direction(lm.model, seed=seed, selection=top) for seed in (0, 1)]
    surface = gv.loss_surface(lm.model, batches, plane, 0.5, 3, progress=False)
    files = sorted((results / "surfaces").iterdir())
    assert [file.name for file in files] == ["all.h5", "top_5__.h5"]
    assert (gv.Surface.load(files[1]).sequence_losses == surface.sequence_losses).all()

    shared = flags(study, results, task=study / "task.csv", seeds=2, epochs=1)
    shared += ["--arm", "guided", "--arm", "standard"]
    done = run("compare", *shared, "--n-train", 40)
    assert done.exit_code == 0, done.output
    schedule = gv.guided_dropout(lm.model, by_hand)
    task = gv.load_task(study / "task.csv").subset(n_train=40)
    arms = {"guided": schedule, "standard": 0.1}
    expected = gv.compare(lm, task, arms, seeds=range(2), epochs=1, max_length=16, progress=False)
    found = Comparison.load(results / "comparison.json")
    assert found.scores().equals(expected.scores())
    assert gv.DropoutSchedule.load(results / "schedule.json").rates == schedule.rates

    # every command again: nothing is computed a second time
    before = {file: file.stat().st_mtime_ns for file in results.rglob("*.h5")}
    for file in (results / "runs").iterdir():
        before[file] = file.stat().st_mtime_ns
    assert run("compare", *shared, "--n-train", 40).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    # and more seeds are added to those that are there
    assert run("compare", *shared, "--n-train", 40, "--seeds", 3).exit_code == 0
    assert len(list((results / "runs").iterdir())) == 6

    done = run("report", results)
    assert done.exit_code == 0, done.output
    page = (results / "report.html").read_text()
    for part in ("Fisher information", "Loss surfaces", "Dropout rates", "Comparison", "100 % of the data, accuracy: "):
        assert part in page
    assert page.count("data:image/png;base64,") == 5
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_a_settings_file_gives_the_numbers_of_the_flags(study, run, tmp_path, suffix):
    if suffix == ".toml":
        pytest.importorskip("tomllib")
    file = tmp_path / f"settings{suffix}"
    shared = {"model": str(study / "model"), "text": str(study / "text.txt"), "max-length": 16}
    if suffix == ".toml":
        lines = [f"{key} = {value!r}" for key, value in shared.items()]
        lines += ["[fisher]", "sequences = 20", 'resolution = "tensor"', "[compare]", "seeds = 2"]
    else:
        lines = [f"{key}: {value}" for key, value in shared.items()]
        lines += ["fisher:", "  sequences: 20", "  resolution: tensor", "compare:", "  seeds: 2"]
    file.write_text("\n".join(lines))
    done = run("fisher", "--config", file, "--output", tmp_path / "a")
    assert done.exit_code == 0, done.output
    _, by_hand = fisher_by_hand(study, resolution="tensor")
    assert gv.Fisher.load(tmp_path / "a" / "fisher.safetensors").means.equals(by_hand.means)
    # a flag wins over the file
    done = run("fisher", "--config", file, "--output", tmp_path / "b", "--sequences", 10)
    assert gv.Fisher.load(tmp_path / "b" / "fisher.safetensors").n_sequences == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequnces: 3", "sequnces"),
        ("fisher:\n  points: 3", "points"),
        ("- a\n- b", "should hold lines"),
        ("model: [", "could not be read"),
        ("fisher:\n  sequences: many", "--sequences"),
    ],
)
def test_a_wrong_settings_file(run, tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    done = run("fisher", "--config", tmp_path / "s.yaml", "--output", tmp_path)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())  # the box breaks lines


def test_the_demo_writes_what_it_prints(study, run, tmp_path):
    command = ["demo", "--model", study / "model", "--task", study / "task.csv", "--n-train", 40, "--seeds", 2]
    done = run(*command, "--output", tmp_path / "demo.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "demo.html").read_text()
    findings = [line.removeprefix("- ") for line in done.stdout.splitlines() if line.startswith("- ")]
    assert len(findings) >= 4 + 3 * 2  # of the four steps, and a verdict per control and share of the data
    assert all(html.escape(finding) in page for finding in findings)
    assert page.count("data:image/png;base64,") == 5
    assert (tmp_path / "demo.png").stat().st_size > 0
    assert len(list((tmp_path / "demo-runs").iterdir())) == 2 * 4 * 2  # shares, arms, seeds


def test_errors_are_one_line(study, run, tmp_path):
    def refuses(message, *arguments):
        done = run(*arguments)
        assert done.exit_code == 1, done.output
        assert done.output.startswith("Error: ")
        assert message in done.output
        assert done.output.count("\n") == 1

    refuses("does not exist", "fisher", "--model", "./nowhere", "--output", tmp_path)
    refuses("run `python -m gdrop_viz fisher`", "landscape", *flags(study, tmp_path))
    refuses("run `python -m gdrop_viz fisher`", "compare", *flags(study, tmp_path))
    refuses("expected a folder with results", "report", tmp_path / "nowhere")
    refuses("no results in", "report", tmp_path)
    text = ["--text", study / "text.txt"]
    assert run("fisher", *flags(study, tmp_path, sequences=10), *text).exit_code == 0
    refuses("holds results with other settings", "fisher", *flags(study, tmp_path, sequences=12), *text)


def test_every_command_teaches(run):
    commands = ("fisher", "landscape", "compare", "report", "demo", "landscape-findings", "paper", "problem")
    assert all(name in run("--help").output for name in commands)
    for name in ("fisher", "landscape", "compare", "report", "paper"):
        assert f"Example: python -m gdrop_viz {name}" in run(name, "--help").output


def test_the_shell_completes_commands_and_options():
    script = "import sys; sys.argv = ['gdrop-viz']; from gdrop_viz.__main__ import app; app()"
    settings = {"_GDROP_VIZ_COMPLETE": "complete_bash", "COMP_WORDS": "gdrop-viz comp", "COMP_CWORD": "1"}
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout.split() == ["compare"], done.stderr
