"""Are the lab and the lesson on data paucity working apps in Voila, where there is no notebook around them?"""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest

from tests.browser.jupyter import REPOSITORY, served, write_notebook
from tests.browser.tiny_notebooks import LAB, MODEL, TASK


@pytest.fixture
def serve_app():
    """Serve a notebook as an app until the test is over and its pages (which come after it) are closed."""
    with ExitStack() as stack:

        def serve(notebook, **seconds) -> str:
            (notebook.parent / "jupyter").mkdir()
            return stack.enter_context(
                served(notebook.parent, notebook.parent / "jupyter", notebook=notebook, **seconds)
            )

        yield serve


def test_the_lab_as_an_app(serve_app, open_page, tmp_path):
    cells = [MODEL + TASK, LAB.format(path=str(tmp_path / "runs"), n_seeds=1)]
    page = open_page()
    page.open_voila(serve_app(write_notebook(tmp_path / "app.ipynb", cells)))
    page.page.get_by_label("upper", exact=True).press("ArrowRight")
    page.text(r"to 0\.11 at ")
    page.button("Run").click()
    page.text(r"Finished: 2 of 2 runs done", seconds=120)
    page.text(r"100 % of the data, accuracy: guided 0-0\.11 ")
    page.page.get_by_text("Copy as code").click()
    page.text(r"guided_dropout\(lm\.model, fisher, lower=0\.0, upper=0\.11\)")


@pytest.mark.lesson
def test_the_lesson_on_data_paucity_is_an_app(serve_app, open_page, tmp_path):
    lesson = shutil.copy(REPOSITORY / "notebooks" / "04_data_paucity.ipynb", tmp_path / "lesson.ipynb")
    page = open_page()
    page.open_voila(serve_app(lesson, cell_seconds=1200), seconds=1200)
    page.text("Mean over 6 seeds at 100 % of the data", seconds=120)  # what the lesson has trained is found
    assert page.page.locator(".jp-CodeMirrorEditor:visible, .jp-InputArea-editor:visible").count() == 0  # no code
    assert page.page.locator(".jp-OutputArea-output img").count() >= 2  # but its pictures
    assert page.page.get_by_text("Traceback").count() == 0

    # and the panel works: other bounds, one seed, Run
    page.page.get_by_label("upper", exact=True).press("ArrowRight")
    page.text(r"to 0\.11 at ")
    seeds = page.page.get_by_label("seeds, as a number")
    seeds.fill("1")
    seeds.press("Enter")
    page.button("Run").click()
    page.text(r"Finished: 3 of 3 runs done", seconds=300)
    page.text(r"100 % of the data, accuracy: guided 0-0\.11 ")
