"""Base of panels with long work: Run, Stop, a bar with words, and a thread that ends with the panel."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable

import ipywidgets

from gdrop_viz.widgets.panel import Panel
from gdrop_viz.widgets.running import Runner


class RunPanel(Panel):
    """A panel with one background run at a time; subclasses say in `run` what is done.

    What the run raises appears in the message line. Closing the panel stops the run.
    """

    _kept = "What is finished is kept."

    def __init__(self) -> None:
        super().__init__()
        self.runner = Runner(on_end=self.guarded(self._run_ended), on_error=self.show_error)
        self.run_button = ipywidgets.Button(description="Run", button_style="primary", icon="play")
        self.stop_button = ipywidgets.Button(description="Stop", disabled=True, icon="stop")
        self.buttons = ipywidgets.HBox([self.run_button, self.stop_button], layout={"flex_flow": "row wrap"})
        self.progress = ipywidgets.HTML()
        self.show_progress(0.0, "Not started.")
        self.run_button.on_click(self.guarded(lambda button: self.run()))
        self.stop_button.on_click(self.guarded(lambda button: self.stop()))

    def run(self) -> None:
        """Begin the work in the background; returns at once."""
        raise NotImplementedError

    def start(self, job: Callable[[threading.Event], object], text: str) -> None:
        """Begin `job`, saying `text` until it reports; raises RuntimeError while another one runs."""
        if self.runner.running:
            raise RuntimeError("a run is still at work: stop it, or wait for its end, before the next one")
        # first, for a short job may have ended (and told its error) before `start` returns
        self.show_message("")
        self.show_progress(0.0, text)
        self.run_button.disabled, self.stop_button.disabled = True, False
        self.runner.start(job)

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

    def _run_ended(self) -> None:
        """Called in the run's thread when it is over, also after an error."""
        self.run_button.disabled, self.stop_button.disabled = False, True
        if self.last_error is None:
            self.show_message("")
        else:
            self.show_progress(0.0, f"The run ended with an error. {self._kept}")

    def close(self) -> None:
        """Stop the run and close the panel with everything in it."""
        self.runner.stop()
        super().close()
