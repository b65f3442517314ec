"""A person's way through the two explorers in a real browser: choose, compute, turn, cut, stop, find again."""

from __future__ import annotations

from tests.browser.jupyter import write_notebook
from tests.browser.tiny_notebooks import MODEL


def choose(page, label: str, option: str) -> None:
    page.page.locator(".gdv-panel").get_by_label(label, exact=True).select_option(label=option)


def test_fisher_explorer(open_page, lab, lab_folder):
    cell = 'gv.FisherExplorer({"tiny": fisher, "means": gv.Fisher.from_means(fisher.means)})'
    page = open_page()
    page.open_lab(lab, write_notebook(lab_folder / "fisher.ipynb", [MODEL, cell]).name)
    page.run_all()
    page.text(r"tiny: highest in ")
    choose(page, "group by", "component")
    page.text("Fisher information by component")
    choose(page, "top", "10 %")
    page.text(r"the top 10 % of the parameters carry [\d.]+ %")
    choose(page, "model", "all models")
    page.text(r"means \(whole tensors\): the top 10 %")
    choose(page, "model", "means")
    page.text(r"The locator needs a score per parameter")
    heatmap = page.page.locator(".gdv-chart", has_text="By place").locator(".gdv-plot")
    heatmap.press("ArrowUp")
    readout = page.page.locator(".gdv-chart", has_text="By place").locator(".gdv-readout")
    assert "mean score" in readout.inner_text()


def test_landscape_explorer(open_page, lab, lab_folder, tmp_path):
    cell = f"gv.LandscapeExplorer(lm, fisher, batches, path={str(tmp_path)!r}, points=21, k=0.1)"
    page = open_page()
    page.open_lab(lab, write_notebook(lab_folder / "landscape.ipynb", [MODEL, cell]).name)
    page.run_all()
    page.text("2 of 2 surfaces to compute")
    page.button("Run").click()
    page.text(r"[1-9]\d* of 882 points", seconds=60)
    page.button("Stop").click()
    page.text(r"[12] of 2 surfaces to compute", seconds=10)
    assert page.page.locator(".gdv-cells rect").count() == 2 * 21 * 21  # a coarse picture, without holes
    page.button("Run").click()
    page.text("Both surfaces are known", seconds=180)

    # the cursor of one surface shows in both and cuts both
    left, right = (page.page.locator(".gdv-plot").nth(k) for k in (0, 1))
    left.press("ArrowRight")
    left.press("ArrowRight")
    page.text(r"Cross-sections through x = 0\.1, y = 0")
    right.locator(".gdv-overlay rect").wait_for()
    assert "loss (nats per predicted token)" in page.page.locator(".gdv-readout").nth(1).inner_text()

    # turning one surface turns the other
    page.page.get_by_label("3-D").check()
    page.page.locator(".gdv-relief").nth(1).wait_for()
    before = right.locator(".gdv-relief path").first.get_attribute("d")
    left.press("ArrowLeft")
    page.page.wait_for_function(
        "(before) => document.querySelectorAll('.gdv-relief')[1].firstChild.getAttribute('d') !== before", arg=before
    )
    box = left.bounding_box()
    turned = right.locator(".gdv-relief path").first.get_attribute("d")
    page.page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 160, box["y"] + 120, steps=4)
    page.page.mouse.up()
    page.page.wait_for_function(
        "(before) => document.querySelectorAll('.gdv-relief')[1].firstChild.getAttribute('d') !== before", arg=turned
    )

    # a new kernel shows the surfaces from disk
    page.run_all(restart=True)
    page.text("Both surfaces are known")


def test_a_saved_notebook_comes_back_with_its_picture(open_page, lab, lab_folder):
    """Saved, its kernel ended, reopened: the picture and how to bring the panel back, and no broken widget."""
    import nbformat

    file = write_notebook(lab_folder / "kept.ipynb", [MODEL, "gv.FisherExplorer(fisher)"])
    # what JupyterLab says of a kernel that was ended, and of a widget whose model went with it
    page = open_page(expected="Canceled future|debugger state|[Kk]ernel|comm")
    page.open_lab(lab, file.name)
    page.run_all()
    page.page.locator(".gdv-panel .gdv-chart svg").first.wait_for()
    kept = page.page.locator(".gdv-kept")
    assert kept.count() == 1
    assert not kept.is_visible()  # while the panel lives
    page.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    page.text("The kernel of this panel has gone")
    page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")

    notebook = nbformat.read(file, as_version=4)
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, file)
    again = open_page(expected="widget model not found")
    again.page.goto(f"{lab}/lab/tree/{file.name}?reset", wait_until="domcontentloaded")
    again.text("Run this cell to bring the panel back")
    assert again.page.locator(".gdv-kept img").is_visible()
    again.page.wait_for_timeout(2000)  # time for the widget manager to give up on the model
    assert again.page.get_by_text("Error displaying widget").locator("visible=true").count() == 0


WORDS = """
import gdrop_viz as gv
lm = gv.load_pretrained("bert-mini")
batches = gv.pretraining_batches(lm, n_sequences=8, batch_size=8, max_length=32, progress=False)
fisher = gv.fisher_information(lm.model, batches, progress=False)
words = gv.WordsExplorer(lm, fisher)
words
"""


def test_words_explorer(open_page, lab, lab_folder):
    page = open_page()
    page.open_lab(lab, write_notebook(lab_folder / "words.ipynb", [WORDS]).name)
    page.run_all()
    page.text("2 of 2 sides to compute")
    page.button("Run").click()
    page.text("Both sides are known", seconds=180)
    left = page.page.locator(".gdv-chart").first
    assert left.locator("rect.gdv-bar").count() == 5
    assert "glad 17 %" in left.inner_text()
    slider = page.page.get_by_label("distance", exact=True)
    before = left.locator(".gdv-summary").inner_text()
    slider.press("End")
    page.text(r"At distance 1 the model writes")
    assert left.locator(".gdv-summary").inner_text() != before
    page.text(r"guessing: ln V = 10\.3")
    sentence = page.page.get_by_role("textbox", name="sentence")
    sentence.fill("the _ of the house .")
    sentence.press("Enter")
    page.text("2 of 2 sides to compute")
