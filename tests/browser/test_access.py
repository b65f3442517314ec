"""Can the panels be used by keyboard and screen reader, and read in light and dark, wide and narrow?"""

from __future__ import annotations

import pytest

from tests.browser.jupyter import write_notebook
from tests.browser.tiny_notebooks import LAB, MODEL, TASK

# the WCAG 2 contrast of every text of the panels with what lies behind it; small text needs 4.5 (level AA)
_CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (node) => { for (; node; node = node.parentElement) {
    const colour = channels(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0.99) return colour.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  for (const node of document.querySelectorAll('.gdv-panel *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('button, select')) continue; // the browser's and the page's own
    const style = getComputedStyle(node);
    const ink = channels(node instanceof SVGElement ? style.fill : style.color).slice(0, 3);
    const [high, low] = [luminance(ink), luminance(behind(node))].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""

_WITHOUT_NAME = """() => [...document.querySelectorAll(
    '.gdv-panel :is(input, select, button, progress, [role=application], [tabindex="0"])')]
  .filter((node) => !(node.ariaLabel || node.textContent.trim() || [...(node.labels || [])].some((l) => l.textContent)))
  .map((node) => node.outerHTML.slice(0, 120))"""


@pytest.fixture
def opened(open_page, lab, lab_folder, tmp_path):
    def open_one(width: int):
        cells = [MODEL + TASK, LAB.format(path=str(tmp_path / "runs"), n_seeds=2)]
        cells[-1] += "\nlab.show_error(ValueError('an error to be read'))\nlab"
        cells += ["gv.FisherExplorer(fisher)", f"gv.LandscapeExplorer(lm, fisher, batches, path={str(tmp_path)!r})"]
        page = open_page(width=width)
        page.open_lab(lab, write_notebook(lab_folder / "access.ipynb", cells).name)
        page.run_all()
        page.page.locator(".gdv-panel").nth(2).wait_for()
        return page

    return open_one


@pytest.mark.parametrize("width", [1280, 800])
def test_everything_has_a_name_and_can_be_read_in_both_themes(opened, width, request):
    page = opened(width)
    assert page.page.evaluate(_WITHOUT_NAME) == []
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        page.theme(theme)
        contrasts = page.page.evaluate(_CONTRASTS)
        assert len(contrasts) > 50
        assert [found for found in contrasts if found[0] < 4.5] == []
        if theme == "JupyterLab Light":
            from tests.browser.conftest import SHOTS

            page.screenshot(SHOTS / f"{request.node.name}-light.png")
    # nothing reaches beyond its panel
    too_wide = (
        "() => [...document.querySelectorAll('.gdv-panel')].filter((p) => p.scrollWidth > p.clientWidth + 1).length"
    )
    assert page.page.evaluate(too_wide) == 0


def test_the_panels_can_be_used_by_keyboard(opened):
    page = opened(1280)
    # the Tab key goes through the controls in reading order
    page.page.get_by_label("lower", exact=True).focus()
    names = []
    for _ in range(8):
        names.append(
            page.page.evaluate(
                """() => { const node = document.activeElement;
                    return node.ariaLabel || node.labels?.[0]?.textContent || node.textContent; }"""
            ).strip()
        )
        page.page.keyboard.press("Tab")
    assert names == [
        *("lower", "lower, as a number", "upper", "upper, as a number", "schedule"),
        *("guided", "standard 0.1", "same mean"),
    ]

    # and with plain keys, which the notebook would take for its own
    keyboard, named = page.page.keyboard, page.page.locator(".gdv-panel").first.get_by_label
    named("schedule", exact=True).focus()
    keyboard.press("ArrowDown")
    page.text("Dropout rates of the 7 sites: same mean")
    named("reversed", exact=True).focus()
    keyboard.press("Space")
    page.text(r"Arms to train: guided 0-0\.1, standard 0\.1, reversed 0-0\.1")
    page.page.get_by_text("Copy as code").first.focus()
    keyboard.press("Enter")
    page.text(r"guided\.reversed\(\)")
    page.button("Run").first.focus()
    keyboard.press("Enter")
    page.text(r"[1-6] of 6 runs done", seconds=120)
    page.button("Stop").first.focus()
    keyboard.press("Enter")
    page.text("(Stopped|Finished): ")


def test_arrow_keys_read_out_the_points_of_a_chart(opened):
    page = opened(1280)
    plot = page.page.locator(".gdv-plot").first
    plot.press("ArrowRight")
    readout = page.page.locator(".gdv-readout").first
    first = readout.inner_text()
    plot.press("ArrowDown")
    assert readout.inner_text() != first
    assert ": 0" in first
    plot.press("Escape")
    assert readout.inner_text() == ""
