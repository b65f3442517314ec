"""Base of panels with long work: Run, Stop, a bar with words, and a thread that ends with the panel."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import ipywidgets

from gdrop_viz.widgets.claim import Claim
from gdrop_viz.widgets.panel import Panel
from gdrop_viz.widgets.printed import heard
from gdrop_viz.widgets.running import Runner, Throttle

_MAX_PRINTED = 4000  # characters


class RunPanel(Panel):
    """A panel with one background run at a time; subclasses say in `run` what is done.

    What the run raises appears in the message line, what it prints or warns below the progress. Closing the panel
    stops the run. A run in a folder where another page's run is still at work is not started; the panel offers to
    take over: the other one stops, and what it has finished is kept.
    """

    _kept = "What is finished is kept."

    def __init__(self) -> None:
        super().__init__()
        self.runner = Runner(on_end=self.guarded(self._run_ended), on_error=self.show_error)
        self.run_button = ipywidgets.Button(description="Run", button_style="primary", icon="play")
        self.stop_button = ipywidgets.Button(description="Stop", disabled=True, icon="stop")
        self.buttons = ipywidgets.HBox([self.run_button, self.stop_button], layout={"flex_flow": "row wrap"})
        self.take_over_button = ipywidgets.Button(
            description="Take over", icon="hand-paper-o", layout={"display": "none"}
        )
        self.buttons.children = (*self.buttons.children, self.take_over_button)
        self.progress = ipywidgets.HTML()
        self.printed = ipywidgets.HTML()
        self._printed, self._throttle = "", Throttle()
        self.show_progress(0.0, "Not started.")
        self.run_button.on_click(self.guarded(lambda button: self.run()))
        self.stop_button.on_click(self.guarded(lambda button: self.stop()))
        self.take_over_button.on_click(self.guarded(lambda button: self.take_over()))

    def folder(self) -> Path | None:
        """Where runs keep what they finish; None if nothing is kept."""
        return None

    def run(self) -> None:
        """Begin the work in the background; returns at once."""
        raise NotImplementedError

    def start(self, job: Callable[[threading.Event], object], text: str) -> None:
        """Begin `job`, saying `text` until it reports; raises RuntimeError while another one runs."""
        folder = self.folder()
        claim = None if folder is None else Claim(folder)
        if self.offer_to_take_over():
            return

        def alone(stop: threading.Event) -> None:
            with claim.held(stop) if claim is not None else nullcontext():
                job(stop)

        self._begin(alone, text)

    def offer_to_take_over(self) -> bool:
        """Say whether another page's or kernel's run is at work in the folder, and offer to stop it."""
        folder = self.folder()
        if folder is None or self.runner.running:
            return False
        since = Claim(folder).other()
        self.take_over_button.layout.display = "none" if since is None else ""
        if since is not None:
            self.show_message(
                f"A run that another page or kernel began at {since} is still at work in {folder}. It goes on without "
                f"this panel, or you take over: it stops. {self._kept}"
            )
        return since is not None

    def take_over(self) -> None:
        """Stop the other page's run; returns at once, and Run is possible when it has ended."""
        folder = self.folder()
        if folder is None:
            return
        claim = Claim(folder)

        def ask(stop: threading.Event) -> None:
            if not claim.take_over(stop) and not stop.is_set():
                raise TimeoutError("the other run did not stop; end its kernel (Running Terminals and Kernels)")

        self.take_over_button.layout.display = "none"
        self._begin(ask, f"Waiting for the other run to stop. {self._kept} Then press Run.")

    def _begin(self, job: Callable[[threading.Event], object], text: str) -> None:
        if self.runner.running:
            raise RuntimeError("a run is still at work: stop it, or wait for its end, before the next one")

        def listened(stop: threading.Event) -> None:
            with heard(self.show_printed):
                job(stop)

        self._printed = ""
        self._show_printed()
        # first, for a short job may have ended (and told its error) before `start` returns
        self.show_message("")
        self.show_progress(0.0, text)
        self.run_button.disabled, self.stop_button.disabled = True, False
        self.runner.start(listened)

    def stop(self) -> None:
        """Ask the run to stop; it ends within one step, and what is finished is kept."""
        self.stop_button.disabled = True
        if self.runner.running:
            self.show_message(f"Stopping. {self._kept}")
        self.runner.stop()

    def show_progress(self, share: float, text: str) -> None:
        """Show the share of the work done, with words, as the browser's own element that screen readers know."""
        self.progress.value = (
            f'<progress max="1" value="{share:.4f}" aria-label="progress" style="width: 100%"></progress>'
            f'<div role="status" style="line-height: 1.4">{html.escape(text)}</div>'
        )

    def show_printed(self, text: str) -> None:
        """Add what the run has printed; of a line that is printed over (a progress bar) the last state stays."""
        lines = (self._printed + text).replace("\r\n", "\n").split("\n")
        self._printed = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)[-_MAX_PRINTED:]
        if self._throttle.ready():
            self._show_printed()

    def _show_printed(self) -> None:
        self.printed.value = (
            '<details open class="gdv-printed"><summary>Printed by the run</summary>'
            f'<pre style="margin: 0; max-height: 12em; overflow: auto">{html.escape(self._printed)}</pre></details>'
            if self._printed.strip()
            else ""
        )

    def _run_ended(self) -> None:
        """Called in the run's thread when it is over, also after an error."""
        self.run_button.disabled, self.stop_button.disabled = False, True
        self._show_printed()
        if self.last_error is None:
            self.show_message("")
        else:
            self.show_progress(0.0, f"The run ended with an error. {self._kept}")

    def close(self) -> None:
        """Stop the run and close the panel with everything in it."""
        self.runner.stop()
        super().close()
