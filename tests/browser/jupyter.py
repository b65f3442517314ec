"""How is a notebook opened, run and watched in a real Chromium? JupyterLab or Voila on a free loopback port."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

REPOSITORY = Path(__file__).parents[2]
# what JupyterLab and Voila themselves report and ask for, whatever is in the notebook
_KNOWN_NOISE = re.compile(r"Failed to load resource|Unsatisfied version|No satisfying version|fortawesome|favicon")

_SETTINGS = {
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # every cell is in the page, not only those in view
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def chromium() -> str | None:
    """The path of an installed Chromium, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def write_notebook(path: Path, cells: Sequence[str]) -> Path:
    """Write a notebook with these code cells."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


@contextmanager
def served(
    folder: Path, scratch: Path, *, notebook: Path | None = None, seconds: float = 120, cell_seconds: int = 300
) -> Iterator[str]:
    """Serve `folder` with JupyterLab, or `notebook` with Voila; yields the address and stops the server afterwards.

    The server has `seconds` to come up, each cell of a Voila app `cell_seconds`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in _SETTINGS.items():
        file = scratch / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY_"))}
    environment = inherited | {
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
    }
    if notebook is not None:
        command = ["voila", str(notebook), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
        command += ["--VoilaConfiguration.show_tracebacks=True", f"--VoilaExecutor.timeout={cell_seconds}"]
    else:
        command = ["jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
        command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
        command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    with (scratch / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(server, address, port, voila=notebook is not None, seconds=seconds)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_up(server: subprocess.Popen, address: str, port: int, *, voila: bool, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}; see server.log")
        try:
            if voila:  # it runs the notebook at each request, so only the port is looked at
                socket.create_connection(("127.0.0.1", port), 1).close()
            else:
                urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise RuntimeError(f"the server did not answer within {seconds:g} s; see server.log")


class NotebookPage:
    """A notebook in a page of Chromium: run it, find its widgets, collect what went wrong."""

    def __init__(
        self, browser: Browser, *, width: int = 1280, height: int = 900, scale: float = 1, expected: str = "(?!)"
    ) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        self.console_errors: list[str] = []
        self._expected = re.compile(expected)  # errors that the test itself brings about
        self.requests_elsewhere: list[str] = []
        self.page.route(_is_elsewhere, self._refuse)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("console", self._hear)

    def _refuse(self, route: Any) -> None:
        if not _KNOWN_NOISE.search(route.request.url):  # Voila's page asks for Font Awesome
            self.requests_elsewhere.append(route.request.url)
        route.abort()

    def _hear(self, message: Any) -> None:
        if message.type == "error" and not _KNOWN_NOISE.search(message.text):
            self._note(message.text)

    def _note(self, error: str) -> None:
        if not self._expected.search(error):
            self.console_errors.append(error)

    def open_lab(self, address: str, notebook: str, *, seconds: float = 60) -> None:
        """Open a notebook (relative to the server's folder) in JupyterLab and wait for its kernel."""
        self.page.goto(f"{address}/lab/tree/{urllib.parse.quote(notebook)}?reset", wait_until="domcontentloaded")
        self.page.wait_for_function("() => window.jupyterapp", timeout=1000 * seconds)
        self.page.evaluate("() => window.jupyterapp.started.then(() => true)")
        self.page.wait_for_function(
            """() => { const context = window.jupyterapp.shell.currentWidget?.sessionContext;
                return context?.isReady && context.session?.kernel?.status === 'idle'; }""",
            timeout=1000 * seconds,
        )

    def open_voila(self, address: str, *, seconds: float = 300) -> None:
        """Open a Voila app and wait until its widgets are drawn."""
        self.page.goto(address, wait_until="domcontentloaded", timeout=1000 * seconds)
        self.page.locator(".jupyter-widgets").first.wait_for(timeout=1000 * seconds)

    def run_all(self, *, restart: bool = False, seconds: float = 300) -> None:
        """Run all cells (in a fresh kernel if asked) and wait for the last one."""
        if restart:
            self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        self.page.evaluate(
            """() => { window.ran = null; window.jupyterapp.commands.execute('notebook:run-all-cells')
                .then(() => { window.ran = true; }, (error) => { window.ran = String(error); }); }"""
        )
        self.page.wait_for_function("() => window.ran !== null", timeout=1000 * seconds)
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
            timeout=1000 * seconds,
        )
        if errors := self.cell_errors():
            raise AssertionError("the notebook shows errors: " + "; ".join(errors))

    def run_cell(self, index: int, *, seconds: float = 120) -> None:
        """Run one cell again."""
        self.page.evaluate(
            """(index) => { const panel = window.jupyterapp.shell.currentWidget; panel.content.activeCellIndex = index;
                window.ran = null; window.jupyterapp.commands.execute('notebook:run-cell')
                .then(() => { window.ran = true; }, (error) => { window.ran = String(error); }); }""",
            index,
        )
        self.page.wait_for_function("() => window.ran !== null", timeout=1000 * seconds)

    def cell_errors(self) -> list[str]:
        """Errors in the outputs of the cells, and broken widgets."""
        return self.page.evaluate(
            """() => { const found = [];
                for (const cell of window.jupyterapp.shell.currentWidget.content.widgets) {
                  if (cell.model.type !== 'code' || (cell.model.getMetadata('tags') || []).includes('raises-exception'))
                    continue;
                  for (let k = 0; k < cell.model.outputs.length; k++) {
                    const output = cell.model.outputs.get(k).toJSON();
                    if (output.output_type === 'error') found.push(`${output.ename}: ${output.evalue}`); } }
                const broken = '.jupyter-widgets.widget-error, .jupyter-widgets-error-widget';
                for (const widget of document.querySelectorAll(broken)) found.push(widget.innerText);
                return found; }"""
        )

    def output_of(self, index: int) -> str:
        """The text that a cell has printed."""
        return self.page.evaluate(
            "(index) => window.jupyterapp.shell.currentWidget.content.widgets[index].outputArea.node.innerText", index
        )

    def text(self, pattern: str, *, seconds: float = 30) -> Locator:
        """Wait for an element of the page that holds this text and return it."""
        found = self.page.get_by_text(re.compile(pattern)).first
        found.wait_for(timeout=1000 * seconds)
        return found

    def button(self, name: str) -> Locator:
        """A button of a panel (JupyterLab has a Run of its own)."""
        return self.page.locator(".gdv-panel").get_by_role("button", name=name)

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme, such as "JupyterLab Dark"."""
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self.page.wait_for_function(
            "(light) => document.body.dataset.jpThemeLight === light", arg=str("Dark" not in name).lower()
        )

    def screenshot(self, path: Path) -> None:
        """A picture of the whole notebook, however long."""
        height = self.page.evaluate(
            """() => { const outer = document.querySelector('.jp-WindowedPanel-outer');
                const last = outer && [...outer.querySelectorAll('.jp-Cell')].pop();
                if (!last) return document.body.scrollHeight;
                return last.getBoundingClientRect().bottom + outer.scrollTop + 80; }"""
        )
        size = self.page.viewport_size
        self.page.set_viewport_size({"width": size["width"], "height": max(size["height"], min(int(height), 10_000))})
        self.page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer')?.scrollTo(0, 0); }")
        self.page.wait_for_timeout(300)  # JupyterLab and the charts follow the new size
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        self.page.set_viewport_size(size)


def _is_elsewhere(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1"
