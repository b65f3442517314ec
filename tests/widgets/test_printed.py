"""Does a panel show what its run prints and warns, and only that?"""

from __future__ import annotations

import sys
import threading
import warnings

import pytest

from gdrop_viz.widgets.printed import heard
from gdrop_viz.widgets.run_panel import RunPanel


class Printing(RunPanel):
    def __init__(self, job) -> None:
        super().__init__()
        self.job = job
        self.compose([self.buttons, self.progress, self.printed], charts=[])

    def run(self) -> None:
        self.start(self.job, "Starting.")


@pytest.mark.parametrize(
    ("say", "shown"),
    [
        (lambda: print("step <b>1</b>"), "step &lt;b&gt;1&lt;/b&gt;"),
        (lambda: print("to stderr", file=sys.stderr), "to stderr"),
        (lambda: warnings.warn("rates above 0.5", stacklevel=1), "UserWarning: rates above 0.5"),
        (lambda: [print(f"\rstep {k}", end="") for k in range(3)], "step 2"),
    ],
)
def test_the_panel_shows_what_its_run_says(say, shown, capsys):
    panel = Printing(lambda stop: say())
    panel.run_button.click()
    assert panel.runner.wait(10)
    assert shown in panel.printed.value
    assert "step 0" not in panel.printed.value
    assert capsys.readouterr() == ("", "")
    panel.job = lambda stop: None
    panel.run_button.click()
    assert panel.runner.wait(10)
    assert panel.printed.value == ""
    panel.close()


def test_other_threads_keep_their_streams(capsys):
    inside, over = threading.Event(), threading.Event()

    def run():
        with heard(lines.append):
            print("from the run")
            inside.set()
            over.wait(10)

    lines: list[str] = []
    before = sys.stdout, sys.stderr, warnings.showwarning
    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(10)
    print("from a cell")
    over.set()
    thread.join()
    assert "".join(lines) == "from the run\n"
    assert capsys.readouterr().out == "from a cell\n"
    assert (sys.stdout, sys.stderr, warnings.showwarning) == before
