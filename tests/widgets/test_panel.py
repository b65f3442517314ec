"""Does a panel show every error as text, stop its threads when it goes, and let go of its widgets?"""

from __future__ import annotations

import gc
import types
import weakref

import ipywidgets
import pytest

from gdrop_viz.plots.picture import Axis, Picture
from gdrop_viz.widgets import panel as panel_module
from gdrop_viz.widgets.chart import Chart
from gdrop_viz.widgets.run_panel import RunPanel


class SmallPanel(RunPanel):
    def __init__(self) -> None:
        super().__init__()
        self.button = ipywidgets.Button()
        self.chart = Chart(Picture("Title", "Nothing yet.", Axis("x", (0, 1)), Axis("y", (0, 1))))
        self.compose([ipywidgets.HBox([self.button]), self.chart, self.buttons, self.progress], charts=[self.chart])
        self.job = lambda stop: None

    def run(self) -> None:
        self.start(self.job, "Starting.")


@pytest.fixture
def panel():
    small = SmallPanel()
    yield small
    small.close()


def test_an_error_in_a_callback_is_one_escaped_line(panel):
    def fail(button):
        raise ValueError("<img src=x onerror=alert(1)>\nsecond line")

    panel.button.on_click(panel.guarded(fail))
    panel.button.click()
    assert "&lt;img src=x onerror=alert(1)&gt; second line" in panel.message.value
    assert "<img" not in panel.message.value
    assert 'role="alert"' in panel.message.value
    assert isinstance(panel.last_error, ValueError)


def test_an_error_in_a_run_is_shown_too_and_run_is_possible_again(panel):
    panel.job = lambda stop: {}["missing"]
    panel.run_button.click()
    assert panel.runner.wait(5)
    assert "KeyError" in panel.message.value
    assert "ended with an error. What is finished is kept." in panel.progress.value
    panel.job = lambda stop: None
    panel.run_button.click()
    assert panel.runner.wait(5)
    assert panel.message.value == ""


def test_run_and_stop_are_possible_only_when_they_make_sense(panel):
    panel.job = lambda stop: stop.wait(30)
    states = [(panel.run_button.disabled, panel.stop_button.disabled)]
    panel.run_button.click()
    states.append((panel.run_button.disabled, panel.stop_button.disabled))
    with pytest.raises(RuntimeError, match="still at work"):
        panel.run()
    panel.stop_button.click()
    assert panel.runner.wait(5)
    states.append((panel.run_button.disabled, panel.stop_button.disabled))
    assert states == [(False, True), (True, False), (False, True)]


def test_messages_are_escaped_and_replace_an_error(panel):
    panel.show_error(ValueError("bad"))
    panel.show_message("a < b")
    assert "a &lt; b" in panel.message.value
    assert "bad" not in panel.message.value


def test_closing_stops_the_run_and_closes_every_widget(panel):
    asked = []
    panel.runner.start(lambda stop: asked.append(stop.wait(30)))
    parts = [panel.button, panel.chart, panel.message, panel.button.layout, panel.button.style]
    panel.close()
    assert panel.runner.wait(5)
    assert asked == [True]
    assert all(part.comm is None for part in parts)
    panel.close()  # a second time does nothing


def test_a_closed_panel_frees_its_memory():
    small = SmallPanel()
    gone = weakref.ref(small)
    small.close()
    del small
    gc.collect()
    assert gone() is None


def test_running_the_cell_again_closes_the_panel_of_that_cell_only(monkeypatch):
    monkeypatch.setattr(panel_module, "_current_cell", lambda: "cell-1")
    first = SmallPanel()
    monkeypatch.setattr(panel_module, "_current_cell", lambda: "cell-2")
    second = SmallPanel()
    panel_module._close_panels_of_cell(types.SimpleNamespace(cell_id="cell-1"))
    assert first.comm is None
    assert second.comm is not None
    second.close()


def test_outside_a_notebook_nothing_is_closed_by_cells(monkeypatch):
    first = SmallPanel()
    panel_module._close_panels_of_cell(types.SimpleNamespace(cell_id=None))
    assert first.comm is not None
    first.close()


def test_the_saved_notebook_keeps_picture_and_summary(panel, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **named: shown.append(data))
    panel._ipython_display_()
    view, kept = shown
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id == panel.chart.kept
    assert kept["text/plain"] == "Nothing yet."
    assert kept["image/png"] in kept["text/html"]
