"""One Chromium and one JupyterLab for all browser tests; skipped only where no Chromium is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.browser.jupyter import REPOSITORY, NotebookPage, chromium, served

# where the screenshots go; a build server keeps them
SHOTS = Path(os.environ.get("GDROP_VIZ_SCREENSHOTS", REPOSITORY / "build" / "screenshots"))


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if chromium() is None:
                item.add_marker(pytest.mark.skip(reason="no Chromium is installed"))


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def lab(lab_folder, tmp_path_factory):
    with served(lab_folder, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.fixture
def open_page(browser, request):
    """Open pages; at the end a picture of each is kept; errors in the console and requests elsewhere fail the test."""
    pages = []

    def open_one(**size) -> NotebookPage:
        pages.append(NotebookPage(browser, **size))
        return pages[-1]

    yield open_one
    for k, page in enumerate(pages):
        page.screenshot(SHOTS / f"{request.node.name}-{k}.png")
        page.page.close()
    assert [error for page in pages for error in page.console_errors] == []
    assert [address for page in pages for address in page.requests_elsewhere] == []
