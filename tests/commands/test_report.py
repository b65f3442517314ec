"""Reports: whole, safe, and honest about what could not be read."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import gdrop_viz as gv
from gdrop_viz.commands.report import page_of
from gdrop_viz.landscape import Surface


@pytest.fixture
def folder(tmp_path):
    means = {"h.0.attn.c_attn.weight": 2.0, "h.0.mlp.c_fc.weight": 1.0, "h.1.attn.c_attn.weight": 0.5}
    gv.Fisher.from_means(pd.Series(means)).save(tmp_path / "a <b>.safetensors")
    grid = np.linspace(-1, 1, 5)
    loss = grid[:, None] ** 2 + grid[None] ** 2 + 2
    (tmp_path / "deep").mkdir()
    Surface(grid, grid, loss, metadata={"label": "<script>alert(1)</script>"}).save(tmp_path / "deep" / "s.h5")
    Surface(grid, None, grid**2 + 2, metadata={"label": "a line"}).save(tmp_path / "deep" / "line.h5")
    return tmp_path


def test_text_is_escaped_and_nothing_comes_from_outside(folder):
    html = page_of(folder, "<i>mine</i>").html()
    assert "<script" not in html
    assert "<i>mine" not in html
    assert "a &lt;b&gt;.safetensors" in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count("<img") == 4


def test_a_damaged_file_is_named_and_the_rest_is_shown(folder):
    (folder / "broken.h5").write_bytes(b"not hdf5")
    (folder / "other.safetensors").write_bytes(b"neither")
    (folder / "notes.json").write_text("[1")
    html = page_of(folder, "mine").html()
    assert "broken.h5 was left out" in html
    assert "other.safetensors was left out" in html
    assert "a line" in html


def test_a_folder_of_runs_without_a_saved_comparison(tmp_path, tiny_lm):
    from tests.finetuning.conftest import animal_rows

    task = gv.Task("animals", train=animal_rows(32, seed=0), validation=animal_rows(20, seed=1))
    arms = {"standard": 0.1, "none": None}
    gv.compare(tiny_lm, task, arms, seeds=range(2), epochs=1, path=tmp_path / "runs", progress=False)
    html = page_of(tmp_path, "mine").html()
    assert "Comparison: runs" in html
    assert "standard and none" in html or "none and standard" in html  # a folder knows no order of arms
