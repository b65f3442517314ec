"""A person's way through the lab in a real browser: drag, type, Run, Stop, Run again, restart, find the results."""

from __future__ import annotations

import re

import pytest

from tests.browser.jupyter import write_notebook
from tests.browser.tiny_notebooks import LAB, MODEL, TASK


@pytest.fixture
def notebook(lab_folder, tmp_path):
    return write_notebook(
        lab_folder / "dropout_lab.ipynb", [MODEL + TASK, LAB.format(path=str(tmp_path / "runs"), n_seeds=3)]
    ).name


def rates(page) -> str:
    """The drawn curve of the feed-forward sites."""
    return page.page.locator('[data-series="feed-forward"] path.gdv-line').first.get_attribute("d")


def wait_for_change(page, before: str) -> str:
    page.page.wait_for_function(
        """(before) => before !==
            document.querySelector('[data-series="feed-forward"] path.gdv-line').getAttribute('d')""",
        arg=before,
        timeout=5000,
    )
    return rates(page)


def copied(page) -> str:
    """What the Copy button of the panel puts into the clipboard."""
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.get_by_text("Copy as code").click()
    page.button("Copy").click()
    page.page.locator(".gdv-code").get_by_text("copied").wait_for()
    return page.page.evaluate("() => navigator.clipboard.readText()")


def test_the_whole_way(open_page, lab, notebook):
    page = open_page()
    page.open_lab(lab, notebook)
    page.run_all()
    slider, field = page.page.get_by_label("upper", exact=True), page.page.get_by_label("upper, as a number")
    slider.wait_for()

    # by keys, by typing, by dragging: every rate follows at once
    drawn = rates(page)
    slider.press("ArrowRight")
    drawn = wait_for_change(page, drawn)
    assert field.input_value() == "0.11"
    field.fill("0.25")
    field.press("Enter")
    drawn = wait_for_change(page, drawn)
    assert slider.get_attribute("aria-valuetext") == "0.25"
    box = slider.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2, steps=5)
    page.page.mouse.up()
    wait_for_change(page, drawn)
    field.fill("0.1")
    field.press("Enter")
    page.text(r"guided: mean rate 0\.05,")

    # Run, slide meanwhile, Stop in the middle: finished runs stay
    page.button("Run").click()
    page.text(r"[1-5] of 6 runs done", seconds=120)
    drawn = rates(page)
    page.page.get_by_label("lower", exact=True).press("ArrowRight")
    wait_for_change(page, drawn)
    page.page.get_by_label("lower", exact=True).press("ArrowLeft")
    page.button("Stop").click()
    page.text(r"Stopped: \d of 6 runs done", seconds=20)

    # Run again: only the rest is trained, and there is a verdict
    page.button("Run").click()
    page.text(r"Finished: 6 of 6 runs done \([1-5] found on disk\)", seconds=180)
    page.text(r"100 % of the data, accuracy: guided 0-0\.1 ")
    summary = page.text(r"Mean over 3 seeds").inner_text()
    code = copied(page)
    assert "gv.guided_dropout(lm.model, fisher, lower=0.0, upper=0.1)" in code
    assert "result = gv.compare(" in code

    # a new kernel finds the results on disk
    page.run_all(restart=True)
    page.page.wait_for_function("() => !document.body.innerText.includes('Finished: 6 of 6')", timeout=30_000)
    assert sorted(re.findall(r"[\d.]+", page.text(r"Mean over 3 seeds").inner_text())) == sorted(
        re.findall(r"[\d.]+", summary)
    )


def test_running_the_cell_again_ends_the_old_lab(open_page, lab, lab_folder, tmp_path):
    probe = """
import threading
from gdrop_viz.widgets import panel
print("runs:", sum(t.name == "gdrop_viz run" for t in threading.enumerate()), "open:", len(panel._OPEN))
"""
    cells = [MODEL + TASK, LAB.format(path=str(tmp_path / "runs"), n_seeds=20), probe]
    page = open_page()
    page.open_lab(lab, write_notebook(lab_folder / "again.ipynb", cells).name)
    page.run_all()
    page.button("Run").click()
    page.text(r"Training ", seconds=60)
    page.run_cell(2)
    assert "runs: 1 open: 1" in page.output_of(2)
    page.run_cell(1)
    page.text("Not started")
    page.page.wait_for_timeout(1000)
    page.run_cell(2)
    assert "runs: 0 open: 1" in page.output_of(2)


def test_an_error_is_shown_in_the_panel_as_text(open_page, lab, lab_folder, tmp_path):
    hostile = LAB.format(path=str(tmp_path / "runs"), n_seeds=1).replace("batch_size=8", "batch_size='<img src=x>'")
    page = open_page()
    page.open_lab(lab, write_notebook(lab_folder / "error.ipynb", [MODEL + TASK, hostile]).name)
    page.run_all()
    page.button("Run").click()
    page.text(r"ValueError: expected batch_size .*<img src=x>", seconds=60)
    assert page.page.locator(".gdv-panel img").count() == 0
