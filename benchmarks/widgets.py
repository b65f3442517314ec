"""Time from a key press in the DropoutLab to the changed page, at rest and while a training runs.

    python benchmarks/widgets.py [--presses 30] [--no-lesson]

A real JupyterLab in Chromium. The arrow keys move the slider "upper" of a lab on the bundled bert-mini; the time runs
from the key event to the first change of the drawing that it causes, both by the page's own clock. Medians over the
presses, which come 0.3 s apart. Targets: 50 ms at rest, 100 ms while the lab trains in the background; Stop within 1 s,
from the click to the word "Stopped"; the first lesson within 90 s, from opening it to its last picture.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.jupyter import REPOSITORY, NotebookPage, chromium, served, write_notebook

LESSON = "00_start_here.ipynb"

CELLS = [
    """
import gdrop_viz as gv
lm = gv.load_pretrained("bert-mini")
task = gv.load_task("sentiment")
# the scores do not matter for the time, only the number of sites
fisher = gv.Fisher.from_means({name: 1.0 + k for k, (name, _) in enumerate(lm.model.named_parameters())})
lab = gv.DropoutLab(lm, task, fisher, path=PATH, n_seeds=20)
lab
""",
    "print(len(lab.state.ranking.rates), 'sites')",
]

# the observer sees the first change after the key, whatever is redrawn later
_WATCH = """() => {
  window.latencies = [];
  const plot = [...document.querySelectorAll('.gdv-plot')].find((p) => p.ariaLabel.startsWith('Dropout rates'));
  let pressed = null;
  document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
  new MutationObserver(() => {
    if (pressed !== null) { window.latencies.push(performance.now() - pressed); pressed = null; }
  }).observe(plot, { childList: true, subtree: true });
}"""


def measured(page: NotebookPage, presses: int) -> list[float]:
    """Milliseconds from key press to changed drawing."""
    page.page.evaluate("() => { window.latencies = []; }")
    slider = page.page.get_by_label("upper", exact=True)
    slider.focus()
    for k in range(presses):
        slider.press("ArrowRight" if k // 5 % 2 == 0 else "ArrowLeft")
        page.page.wait_for_function("(n) => window.latencies.length >= n", arg=k + 1, timeout=10_000)
        page.page.wait_for_timeout(300)
    return page.page.evaluate("() => window.latencies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presses", type=int, default=30)
    parser.add_argument("--no-lesson", action="store_true", help="leave the first lesson out")
    options = parser.parse_args()
    presses = options.presses
    if chromium() is None:
        parser.error("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = Path(folder)
        cells = [CELLS[0].replace("PATH", repr(str(folder / "runs"))), CELLS[1]]
        write_notebook(folder / "latency.ipynb", cells)
        (folder / "jupyter").mkdir()
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        with served(folder, folder / "jupyter") as address:
            page = NotebookPage(browser)
            page.open_lab(address, "latency.ipynb")
            page.run_all()
            page.page.get_by_label("upper", exact=True).wait_for()
            page.page.evaluate(_WATCH)
            print(f"key press to changed drawing, {page.output_of(1).strip()}, median of {presses}:")
            report("at rest", measured(page, presses))
            page.button("Run").click()
            page.text(r"step \d+ of \d+", seconds=120)
            report("while training", measured(page, presses))
            began = time.perf_counter()
            page.button("Stop").click()
            page.text("Stopped: ")
            print(f"Stop, from the click to the word: {time.perf_counter() - began:.2f} s")
            if not options.no_lesson:
                page.page.close()
                shutil.copy(REPOSITORY / "notebooks" / LESSON, folder)
                print(f"{LESSON}, from opening to its last picture: {lesson(NotebookPage(browser), address):.0f} s")
        browser.close()


def lesson(page: NotebookPage, address: str) -> float:
    """Seconds from opening the first lesson in a new tab to the drawing of its last panel."""
    began = time.perf_counter()
    page.open_lab(address, LESSON)
    page.run_all(seconds=1200)
    page.page.locator(".gdv-panel .gdv-plot svg").first.wait_for()
    return time.perf_counter() - began


def report(what: str, milliseconds: list[float]) -> None:
    """Print the median with the range of the middle nine tenths."""
    cuts = statistics.quantiles(milliseconds, n=20)
    print(f"  {what:15s} {statistics.median(milliseconds):6.1f} ms   (5 % to 95 %: {cuts[0]:.0f} to {cuts[-1]:.0f} ms)")


if __name__ == "__main__":
    main()
