"""Screenshots of the three panels in JupyterLab: those of the README, and more for a closer look.

    python docs/screenshots.py                     docs/pictures/*.webp: the README's (1280 pixels wide, light)
    python docs/screenshots.py --all build/looks   each panel at 1280 and 800 pixels, light and dark, also in 3-D

The panels are real ones on the bundled models, computed here (some minutes on two cores); scores and surfaces are kept
in build/panels for the next time. Chromium is needed.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.jupyter import NotebookPage, chromium, served, write_notebook

PICTURES = Path(__file__).parent / "pictures"
WORK = Path(__file__).parents[1] / "build" / "panels"
MAX_BYTES = 250_000

FISHER = """
import os
import gdrop_viz as gv
fishers = {}
for name in ("t5-mini", "gpt2-mini", "bert-mini"):
    lm = gv.load_pretrained(name)
    batches = gv.pretraining_batches(lm, n_sequences=64, batch_size=8, max_length=64, progress=False)
    if not os.path.exists(f"{name}.safetensors"):
        gv.fisher_information(lm.model, batches, progress=False).save(f"{name}.safetensors")
    fishers[name] = gv.Fisher.load(f"{name}.safetensors")
gv.FisherExplorer(dict(reversed(fishers.items())))
"""
LANDSCAPE = """
explorer = gv.LandscapeExplorer(lm, fishers["bert-mini"], batches[:1], path="surfaces", points=13)
explorer.same_distance.value = True
explorer.run()
explorer.runner.wait()
explorer
"""
LAB = """
task = gv.load_task("sentiment").subset(n_train=96, n_validation=120)
lab = gv.DropoutLab(lm, task, fishers["bert-mini"], path="runs", epochs=2, max_length=48)
lab.run()
lab.runner.wait()
lab
"""
NAMES = ("fisher_explorer", "landscape_explorer", "dropout_lab")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every width, theme and view, into this folder")
    everything = parser.parse_args().all
    if chromium() is None:
        parser.error("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORK / "runs", ignore_errors=True)  # runs found on disk have no live curves
    write_notebook(WORK / "panels.ipynb", [FISHER, LANDSCAPE, LAB])
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        with served(WORK, Path(scratch)) as address:
            page = NotebookPage(browser, height=2600, scale=1 if everything else 2)
            page.open_lab(address, "panels.ipynb")
            page.run_all(seconds=1800)
            page.page.locator(".gdv-panel").nth(2).wait_for()
            if everything:
                take_all(page, everything)
            else:
                take_for_readme(page)
        browser.close()


def take_for_readme(page: NotebookPage) -> None:
    """The three panels, crisp and small enough for a repository: WebP without loss."""
    from PIL import Image

    show_models_and_reliefs(page)
    PICTURES.mkdir(exist_ok=True)
    for name in NAMES:
        shot, picture = WORK / f"{name}.png", PICTURES / f"{name}.webp"
        shoot(page, name, shot)
        with Image.open(shot) as image:
            image.convert("RGB").save(picture, lossless=True, quality=100, method=6)
        print(f"{picture.name}: {picture.stat().st_size / 1000:.0f} kB")
        if picture.stat().st_size > MAX_BYTES:
            raise SystemExit(f"{picture.name} is larger than {MAX_BYTES / 1000:.0f} kB")


def take_all(page: NotebookPage, folder: Path) -> None:
    """Every panel and view, to be looked at."""
    for view in ("", "-other"):
        if view:  # several models on one axis, the surfaces in 3-D, the code unfolded
            show_models_and_reliefs(page)
            for heading in page.page.locator(".gdv-code summary").all():
                heading.click()
        for theme, width in itertools.product(("Light", "Dark"), (1280, 800)):
            page.theme(f"JupyterLab {theme}")
            page.page.set_viewport_size({"width": width, "height": 2600})
            for name in NAMES:
                shoot(page, name, folder / f"{name}{view}-{width}-{theme.lower()}.png")


def show_models_and_reliefs(page: NotebookPage) -> None:
    """All models on one axis, and the surfaces in 3-D."""
    panels = page.page.locator(".gdv-panel")
    panels.nth(0).get_by_label("model", exact=True).select_option(label="all models")
    page.page.get_by_label("3-D").check()
    page.page.locator(".gdv-relief").nth(1).wait_for()
    page.text("t5-mini: two texts of", seconds=300)  # what is drawn last


def shoot(page: NotebookPage, name: str, path: Path) -> None:
    """A picture of one panel alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.page.wait_for_timeout(500)  # the charts follow the new size
    page.page.locator(".gdv-panel").nth(NAMES.index(name)).screenshot(path=path)


if __name__ == "__main__":
    main()
