"""Does a report of a problem hold what helps, and nothing private? Is the log where it should be?"""

from __future__ import annotations

import getpass
import logging
import platform
import subprocess
import sys
from pathlib import Path

import torch
from typer.testing import CliRunner

import gdrop_viz as gv
from gdrop_viz.__main__ import app
from gdrop_viz.logs import show_log
from gdrop_viz.problem_report import problem_report


def test_versions_device_and_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    report = problem_report()
    for part in (f"gdrop_viz {gv.__version__}", f"torch {torch.__version__}", "device: ", "OMP_NUM_THREADS=3"):
        assert part in report


def test_nothing_private(monkeypatch, tmp_path):
    secrets = {"HF_TOKEN": "hf_secret", "CUDA_VISIBLE_DEVICES": "my private device", "HOME": str(tmp_path)}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    report = problem_report()
    for private in (*secrets.values(), platform.node(), str(Path.cwd()), f"/{getpass.getuser()}/"):
        assert private not in report


def test_the_command_and_verbose(monkeypatch):
    done = subprocess.run([sys.executable, "-m", "gdrop_viz", "problem"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"gdrop_viz {gv.__version__}")
    assert not logging.getLogger("gdrop_viz").handlers

    def logs() -> str:
        logging.getLogger("gdrop_viz.somewhere").info("this is what it does")
        return ""

    monkeypatch.setattr("gdrop_viz.problem_report.problem_report", logs)
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
