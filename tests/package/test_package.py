"""The wheel: all that the package needs, and its data where it is looked for."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_every_module_and_all_data_are_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "gdrop_viz").rglob("*.py")}
    assert modules <= names
    data = {file for folder in ("models", "corpus", "tasks") for file in (ROOT / "data" / folder).rglob("*")}
    assert {f"gdrop_viz/{file.relative_to(ROOT)}" for file in data if file.is_file()} <= names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/"))]


def test_the_unpacked_wheel_finds_its_data_and_its_command(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    assert "gdrop-viz = gdrop_viz.__main__:app" in next(tmp_path.glob("*.dist-info/entry_points.txt")).read_text()
    code = "import gdrop_viz.models.bundled as b; print(b.data_folder(), *b.bundled_models(), *b.bundled_tasks())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    folder, *names = done.stdout.split()
    assert folder == str(tmp_path / "gdrop_viz" / "data"), done.stderr
    assert {"bert-mini", "sentiment", "rating", "acceptability"} <= set(names)


def test_the_metadata_names_what_the_commands_import(wheel):
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    for package in ("torch", "transformers", "typer", "pyyaml", "h5py"):
        assert f"\nrequires-dist: {package}" in text.lower()
    assert "Provides-Extra: cluster" in text
