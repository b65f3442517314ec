"""What is left of the panels in a saved notebook, where no widget runs?"""

from __future__ import annotations

import re

import nbformat
import pytest

from tests.browser.tiny_notebooks import MODEL


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A notebook with one panel, executed without a browser, its widget state stripped."""
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (MODEL, 'gv.FisherExplorer({"tiny": fisher})')]
    )
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path_factory.mktemp("saved")))
    notebook.metadata.pop("widgets", None)
    return notebook


def test_the_output_holds_a_picture_and_a_sentence(saved):
    view, kept = saved.cells[1].outputs
    assert "application/vnd.jupyter.widget-view+json" in view.data
    assert view.data["text/plain"] == "A panel: run this cell to bring it back."
    assert kept.data["image/png"].startswith("iVBOR")
    assert kept.data["text/plain"].startswith("tiny: highest in ")
    assert "Run this cell to bring the panel back." in kept.data["text/html"]


@pytest.mark.parametrize("template", ["lab", "classic"])
def test_html_export_shows_the_picture(saved, template):
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(template_name=template).from_notebook_node(saved)
    pictures = re.findall(r'<img[^>]*src="data:image/png;base64,[^>]*>', html)
    assert len(pictures) == 1
    assert 'alt="tiny: highest in ' in pictures[0]
    assert "Loading widget" not in html
