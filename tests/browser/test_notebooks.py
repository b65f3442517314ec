"""Does every lesson run from top to bottom in JupyterLab, as a reader would run it?"""

from __future__ import annotations

import shutil

import pytest

from tests.browser.jupyter import REPOSITORY

NOTEBOOKS = sorted(path.name for path in (REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))


# nbval runs them all in every test run; in the browser only the first one is, unless asked: -m lesson
@pytest.mark.parametrize(
    "name", [NOTEBOOKS[0], *(pytest.param(name, marks=pytest.mark.lesson) for name in NOTEBOOKS[1:])]
)
def test_the_lesson_runs(open_page, lab, lab_folder, name):
    shutil.copy(REPOSITORY / "notebooks" / name, lab_folder / name)  # what it writes stays out of the repository
    page = open_page()
    page.open_lab(lab, name)
    page.run_all(seconds=1200)
    # a picture or a panel stands under at least one cell, and no widget is left as text
    assert page.page.locator(".jp-OutputArea-output img, .gdv-chart svg").count() > 0
    assert page.page.get_by_text("Loading widget").count() == 0
