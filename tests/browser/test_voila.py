"""Are the lab and the lesson on data paucity working apps in Voila, where there is no notebook around them?"""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

from tests.browser.jupyter import REPOSITORY, served, write_notebook
from tests.browser.tiny_notebooks import LAB, MODEL, TASK


@contextmanager
def app(notebook, **seconds):
    (notebook.parent / "jupyter").mkdir()
    with served(notebook.parent, notebook.parent / "jupyter", notebook=notebook, **seconds) as address:
        yield address


def test_the_lab_as_an_app(open_page, tmp_path):
    cells = [MODEL + TASK, LAB.format(path=str(tmp_path / "runs"), n_seeds=1)]
    with app(write_notebook(tmp_path / "app.ipynb", cells)) as address:
        page = open_page()
        page.open_voila(address)
        page.page.get_by_label("upper", exact=True).press("ArrowRight")
        page.text(r"to 0\.11 at ")
        page.button("Run").click()
        page.text(r"Finished: 2 of 2 runs done", seconds=120)
        page.text(r"100 % of the data, accuracy: guided 0-0\.11 ")
        page.page.get_by_text("Copy as code").click()
        page.text(r"guided_dropout\(lm\.model, fisher, lower=0\.0, upper=0\.11\)")


@pytest.mark.lesson
def test_the_lesson_on_data_paucity_is_an_app(open_page, tmp_path):
    lesson = shutil.copy(REPOSITORY / "notebooks" / "04_data_paucity.ipynb", tmp_path / "lesson.ipynb")
    with app(lesson, cell_seconds=1200) as address:
        page = open_page()
        page.open_voila(address, seconds=1200)
        page.text("Mean over 6 seeds at 100 % of the data")  # what the lesson has trained is found
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
