"""Does text from data, names and labels stay text in a real browser, in panels, tables and reports?"""

from __future__ import annotations

import pytest

from gdrop_viz.commands.page import Page
from tests.browser.jupyter import write_notebook
from tests.browser.tiny_notebooks import MODEL, TASK

EVIL = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"

PANELS = """
import dataclasses, pandas as pd
from IPython.display import display
EVIL = EVIL_TEXT
evil = dataclasses.replace(lm, name=EVIL)
display(gv.FisherExplorer({EVIL: fisher, "means": gv.Fisher.from_means({EVIL: 1.0, "b.0.x.weight": 2.0})}))
lab = gv.DropoutLab(evil, dataclasses.replace(task, name=EVIL), fisher, path={path!r})
lab.show_error(ValueError(EVIL))
lab.show_progress(0.5, EVIL)
display(lab)
batches = dataclasses.replace(batches, texts=(EVIL,) * batches.n_sequences)
surface = gv.Surface([-1.0, 0.0, 1.0], None, [1.0, 0.0, 1.0], metadata={"label": EVIL})
display(evil, batches, dataclasses.replace(task, name=EVIL, label_names=(EVIL, "b")), surface)
display(gv.DropoutSchedule({EVIL: 0.1}, kind=EVIL), gv.Fisher.from_means({EVIL: 1.0}))
display(gv.select(lm.model, lambda n: True, label=EVIL), dataclasses.replace(gv.random_direction(lm.model), label=EVIL))
from gdrop_viz.finetuning.run_table import COLUMNS
rows = [(EVIL, 1.0, 0, 1, "validation", "accuracy", 0.5, 0.1), ("b", 1.0, 0, 1, "validation", "accuracy", 0.5, 0.1)]
display(gv.Comparison(pd.DataFrame(rows, columns=COLUMNS), "accuracy", {"task": EVIL, "model": EVIL}))
"""


def test_panels_and_tables(open_page, lab, lab_folder, tmp_path):
    page = open_page()
    cells = [MODEL, TASK, PANELS.replace("EVIL_TEXT", repr(EVIL)).replace("{path!r}", repr(str(tmp_path)))]
    page.open_lab(lab, write_notebook(lab_folder / "escaping.ipynb", cells).name)
    page.run_all()
    page.text("ValueError: <script>")  # it is there, as text
    page.page.wait_for_timeout(500)
    assert page.page.evaluate("() => window.hacked") is None
    assert page.page.locator("img[src=x]").count() == 0


def report() -> Page:
    import pandas as pd

    page = Page(EVIL)
    page.heading(EVIL)
    page.text(EVIL, kind=EVIL)
    page.table(pd.DataFrame({EVIL: [EVIL]}, index=[EVIL]), caption=EVIL)
    return page


@pytest.mark.parametrize("guarded", [True, False])
def test_reports(open_page, tmp_path, monkeypatch, guarded):
    if not guarded:  # the test would notice
        monkeypatch.setattr("gdrop_viz.commands.page.html.escape", lambda text, quote=True: text)
    path = report().write(tmp_path / "page.html")
    page = open_page().page
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    assert (page.evaluate("() => window.hacked") is None) == guarded
    if guarded:
        assert page.locator("h2").inner_text() == EVIL
