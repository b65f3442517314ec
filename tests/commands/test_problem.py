"""The report of a problem: what helps, and nothing private; the log in its place."""

from __future__ import annotations

import getpass
import logging
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import gdrop_viz as gv
from gdrop_viz.__main__ import app
from gdrop_viz.base.logs import show_log
from gdrop_viz.commands.problem import _VARIABLES, problem_report
from tests.conftest import sentences

_MORE = "HF_TOKEN USER LOGNAME HOSTNAME HOME HF_HOME AWS_SECRET_ACCESS_KEY http_proxy PYTHONPATH VIRTUAL_ENV".split()


def test_versions_device_and_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    report = problem_report()
    for part in (f"gdrop_viz {gv.__version__}", f"torch {torch.__version__}", "device: ", "OMP_NUM_THREADS=3"):
        assert part in report


def test_nothing_private(monkeypatch, tmp_path):
    """Every variable of the environment holds somebody's own word, and so do user, host and folders."""
    home = tmp_path / "home-of-rosalind"
    home.mkdir()
    monkeypatch.chdir(home)
    for number, name in enumerate(sorted({*os.environ, *_VARIABLES, *_MORE} - {"PATH", "PYTEST_CURRENT_TEST"})):
        monkeypatch.setenv(name, f"rosalind{number}")
    monkeypatch.setattr(platform, "node", lambda: "rosalinds-laptop")
    monkeypatch.setattr(socket, "gethostname", lambda: "rosalinds-laptop")
    monkeypatch.setattr(getpass, "getuser", lambda: "rosalind")
    monkeypatch.setattr(sys, "argv", [str(home / "script.py"), "--token", "hf_rosalind"])
    for modules in ("gdrop_viz.models.bundled", "gdrop_viz.commands.problem"):  # found from where the package lies
        monkeypatch.setattr(sys.modules[modules], "__file__", str(home / "package.py"))
    report = problem_report()
    assert "rosalind" not in report.lower()
    assert "OMP_NUM_THREADS=(set)" in report
    for private in (str(Path(gv.__file__).parents[1]), sys.executable, sys.prefix, "/home/", "\\Users\\"):
        assert private not in report
    known = {line.partition("=")[0] for line in report.splitlines() if "=" in line}
    assert known <= set(_VARIABLES)  # no other variable of the environment is even named


@pytest.mark.parametrize(
    ("value", "shown"),
    [("4", True), ("0,1", True), (":4096:8", True), ("-1", True), ("", True), ("True", True), ("off", True),
     ("random", True), ("rosalind", False), ("GPU-8932f937-d72c", False), ("5551234567890123", False), ("a/b", False)],
)  # fmt: skip
def test_only_numbers_and_switches_are_shown(monkeypatch, value, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    line = next(line for line in problem_report().splitlines() if line.startswith("CUDA_VISIBLE_DEVICES"))
    assert line == f"CUDA_VISIBLE_DEVICES={value if shown else '(set)'}"


def test_the_command_and_verbose(monkeypatch):
    done = subprocess.run([sys.executable, "-m", "gdrop_viz", "problem"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"gdrop_viz {gv.__version__}")
    assert not logging.getLogger("gdrop_viz").handlers

    def logs() -> str:
        logging.getLogger("gdrop_viz.somewhere").info("this is what it does")
        return ""

    monkeypatch.setattr("gdrop_viz.commands.problem.problem_report", logs)
    logger = logging.getLogger("gdrop_viz")
    try:
        for option, told in (([], False), (["--verbose"], True)):
            done = CliRunner().invoke(app, [*option, "problem"])
            assert ("INFO gdrop_viz.somewhere: this is what it does" in done.output) == told
    finally:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)


def test_the_log_tells_what_is_done(tiny_lm, tiny_batches, tmp_path, caplog):
    handler = show_log(logging.DEBUG)
    try:
        gv.fisher_information(tiny_lm.model, tiny_batches, checkpoint=tmp_path / "c.st", progress=False)
        gv.fisher_information(tiny_lm.model, tiny_batches, checkpoint=tmp_path / "c.st", progress=False)
    finally:
        logging.getLogger("gdrop_viz").removeHandler(handler)
        logging.getLogger("gdrop_viz").setLevel(logging.NOTSET)
    assert all(record.name.startswith("gdrop_viz.") for record in caplog.records if "checkpoint" in record.message)
    for part in ("10 sequences", "checkpoint after 3 batches", "going on after 3 batches", "wrote "):
        assert part in caplog.text


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_shows_the_log_of_real_work(tiny_lm, tmp_path, verbose):
    folder = tiny_lm.save(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(sentences(20)))
    command = [*(["--verbose"] if verbose else []), "fisher", "--model", folder, "--text", tmp_path / "text.txt"]
    command += ["--sequences", 4, "--max-length", 16, "--output", tmp_path / "results"]
    logger = logging.getLogger("gdrop_viz")
    try:
        done = CliRunner().invoke(app, [str(part) for part in command])
        assert done.exit_code == 0, done.output
        told = {line.split()[3] for line in done.output.splitlines() if " INFO gdrop_viz." in line}
        assert told == ({"gdrop_viz.fisher.estimate:", "gdrop_viz.fisher.checkpoint:"} if verbose else set())
        assert bool(logger.handlers) == verbose
    finally:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
