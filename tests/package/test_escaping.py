"""Escaped text from data, names and labels in every table, panel and report; without a browser, one by one.

`tests/browser/test_escaping.py` asks the same of a real browser; here no representation can be forgotten.
"""

from __future__ import annotations

import dataclasses
import html
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gdrop_viz as gv
from gdrop_viz import curvature, landscape, studies
from gdrop_viz.commands.page import Page
from gdrop_viz.finetuning.run_table import COLUMNS

EVIL = "<script>window.hacked=1</script>"
X = np.array([-1.0, 0.0, 1.0])


@pytest.fixture
def things(tiny_lm, tiny_batches):
    from datasets import Dataset

    rows = Dataset.from_dict({"text": [EVIL] * 4, "label": [0, 1] * 2})
    return SimpleNamespace(lm=tiny_lm, batches=tiny_batches, rows=rows)


def _findings() -> studies.LandscapeFindings:
    rise = {"model": EVIL, "comparison": EVIL, "moved": EVIL, "norm": 1.0, "step": 1.0, "rise": 1.0}
    rises = pd.DataFrame([{**rise, "seed": s} for s in range(2)])
    return studies.LandscapeFindings(rises, pd.DataFrame(), {EVIL: {}}, pd.DataFrame())


def _comparison(rows: int) -> gv.Comparison:
    found = [(name, 1.0, 0, 1, "validation", "accuracy", 0.5, 0.1) for name in (EVIL, "b")][:rows]
    return gv.Comparison(pd.DataFrame(found, columns=COLUMNS), "accuracy", {"task": EVIL, "model": EVIL})


def _studies() -> Any:
    from gdrop_viz.finetuning.random_effects import StudySummary, random_effects

    return StudySummary(EVIL, "b", pd.DataFrame({"study": [EVIL], "metric": "f1"}), random_effects([1, 2], [1, 1]), 1.0)


def _curvature() -> curvature.SequenceCurvature:
    return curvature.SequenceCurvature(np.ones((2, 1, 1)), np.ones((2, 1)), (EVIL,), (1,), EVIL)


def _line(things: Any) -> landscape.LossLine:
    square, batch = (lambda outputs, batch: outputs[:, 0] ** 2), {"input": torch.ones(2, 1)}
    return gv.loss_line(nn.Linear(1, 1), nn.Linear(1, 1), [batch], 3, loss=square, label=EVIL, progress=False)


# class -> an object of it with EVIL in every text that a person or a file can give it
RESULTS: dict[str, Callable[[Any], Any]] = {
    "Pretrained": lambda t: dataclasses.replace(t.lm, name=EVIL),
    "Batches": lambda t: dataclasses.replace(t.batches, texts=(EVIL,) * t.batches.n_sequences),
    "Batches, objective": lambda t: dataclasses.replace(t.batches, objective=EVIL),
    "Task": lambda t: gv.Task(EVIL, train=t.rows, validation=t.rows, label_names=(EVIL, "b")),
    "Fisher": lambda t: dataclasses.replace(gv.Fisher.from_means({"a": 1.0}), model_class=EVIL),
    "Selection": lambda t: gv.select(t.lm.model, lambda name: True, label=EVIL),
    "Direction": lambda t: dataclasses.replace(gv.random_direction(t.lm.model), label=EVIL, selection=EVIL),
    "Surface": lambda t: gv.Surface(
        X, None, X**2, metadata={"label": EVIL, "model": EVIL, "directions": [{"label": EVIL, "norm": 1.0}]}
    ),
    "LossLine": _line,
    "HessianTrace": lambda t: curvature.HessianTrace(np.ones((2, 1)), (EVIL,), (1,), EVIL),
    "SequenceCurvature": lambda t: _curvature(),
    "HessianSpectrum": lambda t: curvature.HessianSpectrum(X[:1], X[:1], X[:1] > 0, (), 1, EVIL),
    "SpectralDensity": lambda t: curvature.SpectralDensity(X[None], np.full((1, 3), 1 / 3), 3, EVIL),
    "LandscapeFindings": lambda t: _findings(),
    "DropoutSchedule": lambda t: gv.DropoutSchedule({EVIL: 0.1}, kind=EVIL),
    "Comparison": lambda t: _comparison(2),
    "Comparison, empty": lambda t: _comparison(0),
    "StudySummary": lambda t: _studies(),
}
NUMBERS_ALONE = {"Trajectory", "Layout"}  # hold no text


def _page() -> str:
    page = Page(EVIL)
    page.heading(EVIL)
    page.text(EVIL, kind=EVIL)
    page.table(pd.DataFrame({EVIL: [EVIL]}, index=[EVIL]), caption=EVIL)
    return page.html()


@pytest.fixture(params=[True, False], ids=["escaped", "not escaped"])
def guarded(request, monkeypatch):
    """Without the guard each of these tests would notice."""
    if not request.param:
        for target in ("html.escape", "gdrop_viz.dropout.schedule.escape"):
            monkeypatch.setattr(target, lambda text, quote=True: text)
        real = pd.DataFrame.to_html
        monkeypatch.setattr(pd.DataFrame, "to_html", lambda self, *a, **k: real(self, *a, **{**k, "escape": False}))
    return request.param


@pytest.mark.parametrize("name", RESULTS)
def test_results(name, things, guarded):
    shown = RESULTS[name](things)._repr_html_()
    assert ("<script" not in shown) == guarded
    if guarded:
        assert html.escape(EVIL)[:20] in shown  # it is there, as text


def test_panels_say_what_went_wrong_in_text(guarded):
    from gdrop_viz.widgets.panel import Panel, list_html
    from gdrop_viz.widgets.run_panel import RunPanel

    panel, told = Panel(), [list_html([EVIL])]
    panel.show_error(type(EVIL, (ValueError,), {})(EVIL))
    told.append(panel.message.value)
    panel.show_message(EVIL)
    told.append(panel.message.value)
    bar = SimpleNamespace(progress=SimpleNamespace(value=""))
    RunPanel.show_progress(bar, 0.5, EVIL)
    told.append(bar.progress.value)
    assert [one.count("<script") for one in told] == ([0] * 4 if guarded else [1, 2, 1, 1])
    assert all("hacked" in one for one in told)


def test_reports(guarded):
    assert ("<script>window" not in _page()) == guarded


def test_every_class_with_an_html_form_is_asked():
    classes = set()
    for info in pkgutil.walk_packages(gv.__path__, "gdrop_viz."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        classes |= {
            name for name, thing in inspect.getmembers(module, inspect.isclass)
            if thing.__module__ == info.name and hasattr(thing, "_repr_html_") and name != "Saved"
        }  # fmt: skip
    assert classes - NUMBERS_ALONE == {name.split(",")[0] for name in RESULTS}
