"""Is the lab a working app in Voila, where there is no notebook around it?"""

from __future__ import annotations

import pytest

from tests.browser.jupyter import served, write_notebook
from tests.browser.tiny_notebooks import LAB, MODEL, TASK


@pytest.fixture
def app(tmp_path):
    cells = [MODEL + TASK, LAB.format(path=str(tmp_path / "runs"), n_seeds=1)]
    (tmp_path / "jupyter").mkdir()
    with served(tmp_path, tmp_path / "jupyter", notebook=write_notebook(tmp_path / "app.ipynb", cells)) as address:
        yield address


def test_the_lab_as_an_app(app, open_page):
    page = open_page()
    page.open_voila(app)
    page.page.get_by_label("upper", exact=True).press("ArrowRight")
    page.text(r"to 0\.11 at ")
    page.button("Run").click()
    page.text(r"Finished: 2 of 2 runs done", seconds=120)
    page.text(r"100 % of the data, accuracy: guided 0-0\.11 ")
    page.page.get_by_text("Copy as code").click()
    page.text(r"guided_dropout\(lm\.model, fisher, lower=0\.0, upper=0\.11\)")
