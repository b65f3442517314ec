"""Commands that get Ctrl-C or SIGTERM: what is done is kept, status 130, and the same bits when they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import gdrop_viz as gv
from gdrop_viz.commands.jobs import stoppable
from gdrop_viz.finetuning.tracker import RunTracker
from gdrop_viz.fisher.run import Run
from gdrop_viz.landscape.growing import GrowingSurface
from tests.commands.conftest import flags

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(number):
    before = [signal.getsignal(kind) for kind in SIGNALS]
    reached = []

    def work() -> None:
        with stoppable() as stop:
            signal.raise_signal(number)
            reached.append(stop.is_set())
            signal.raise_signal(number)
            reached.append("after the second")

    with pytest.raises(typer.Exit) as ended:
        work()
    assert ended.value.exit_code == 130
    assert reached == [True]
    assert [signal.getsignal(kind) for kind in SIGNALS] == before


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_handlers_come_back(error):
    before = [signal.getsignal(kind) for kind in SIGNALS]
    try:
        with stoppable():
            assert [signal.getsignal(kind) for kind in SIGNALS] != before
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert [signal.getsignal(kind) for kind in SIGNALS] == before


def test_a_thread_cannot_take_signals_and_works_without():
    found = []

    def work() -> None:
        with stoppable() as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == [False]


# --- whole commands: a signal arrives just after a unit of work is done -----------------------------------------------


def _fisher(study: Path, output: Path) -> list[str]:
    return ["fisher", *flags(study, output, sequences=12, text=study / "text.txt"), "--batch-size", "4"]


def _landscape(study: Path, output: Path) -> list[str]:
    shared = flags(study, output, sequences=4, points=3, extent=0.5, text=study / "text.txt")
    return ["landscape", *shared, "--move", "all"]


def _compare(study: Path, output: Path) -> list[str]:
    shared = flags(study, output, task=study / "task.csv", seeds=2, epochs=1)
    return ["compare", *shared, "--n-train", "16", "--n-validation", "16", "--arm", "standard", "--arm", "none"]


def _batches_kept(output: Path) -> int:
    from safetensors import safe_open

    assert not (output / "fisher.safetensors").exists()
    with safe_open(output / "fisher.checkpoint.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["gdrop_viz"])["batches"]


def _runs_kept(output: Path) -> int:
    assert not (output / "comparison.json").exists()
    return len(list((output / "runs").glob("*.json")))


def _points_kept(output: Path) -> int:
    return gv.Surface.load(output / "surfaces" / "all.h5").n_evaluated


def _fisher_bits(output: Path) -> list[bytes]:
    fisher = gv.Fisher.load(output / "fisher.safetensors")
    return [score.numpy().tobytes() for score in fisher.scores.values()] + [fisher.history.to_numpy().tobytes()]


def _surface_bits(output: Path) -> bytes:
    return gv.Surface.load(output / "surfaces" / "all.h5").sequence_losses.tobytes()


def _scores(output: Path) -> list[tuple]:
    return list(gv.Comparison.load(output / "comparison.json").scores().itertuples(index=False, name=None))


# command, what marks the end of a unit, what is kept on disk, the result
COMMANDS: dict[str, tuple[Callable, tuple[type, str], Callable, Callable]] = {
    "fisher": (_fisher, (Run, "add_batch"), _batches_kept, _fisher_bits),
    "landscape": (_landscape, (GrowingSurface, "put"), _points_kept, _surface_bits),
    "compare": (_compare, (RunTracker, "finish"), _runs_kept, _scores),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.filterwarnings("ignore:Stopped after", "ignore:interrupted")
def test_a_stopped_command_keeps_its_units_and_goes_on(study, run, tmp_path, monkeypatch, name, number):
    command, (owner, method), kept, result = COMMANDS[name]
    real, calls = getattr(owner, method), []

    def signalling(*arguments, **settings):
        found = real(*arguments, **settings)
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, signalling)
        done = run(*command(study, tmp_path / "a"))
    assert done.exit_code == 130, done.output
    assert "Stopped. What is done is kept: the same command goes on from there." in done.output
    assert kept(tmp_path / "a") == 2
    for output in ("a", "b"):
        done = run(*command(study, tmp_path / output))
        assert done.exit_code == 0, done.output
    assert result(tmp_path / "a") == result(tmp_path / "b")


# the command itself, waiting for a word after its second batch
WAITING = """
import sys
from gdrop_viz.__main__ import app
from gdrop_viz.fisher.run import Run

real, taken = Run.add_batch, []

def take(*arguments):
    real(*arguments)
    taken.append(1)
    if len(taken) == 2:
        print("two batches are done", flush=True)
        sys.stdin.readline()

Run.add_batch = take
app()
"""


def test_a_job_that_gets_sigterm_from_outside(study, tmp_path):
    command = [sys.executable, "-c", WAITING, *_fisher(study, tmp_path / "r")]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    told = []
    for line in process.stdout:
        told.append(line)
        if "two batches are done" in line:
            break
    process.send_signal(signal.SIGTERM)
    output = process.communicate("go on\n", timeout=120)[0]
    assert process.returncode == 130, "".join([*told, output])
    assert "the same command goes on" in output
    assert _batches_kept(tmp_path / "r") == 2
