"""Base of all panels: errors that show, an end with their cell, and a picture that stays behind."""

from __future__ import annotations

import functools
import html
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from gdrop_viz.widgets.chart import Chart, show_and_keep

# labels of ipywidgets controls: as wide as those of `NumberSlider` in a column, as wide as their text in a row
LABEL_STYLE = {"description_width": "90px"}
ROW_LABEL_STYLE = {"description_width": "initial"}

_OPEN: weakref.WeakSet[Panel] = weakref.WeakSet()


class Panel(ipywidgets.VBox):
    """A column of controls and charts with a line for messages below.

    Closing the panel, or running its cell again, closes every widget in it, so that the browser and the kernel let go
    of them, and forgets the attributes in `_given`: Jupyter's `Out` may keep a closed panel for as long as the kernel
    lives. Whatever a callback raises appears in the message line as one escaped line.
    """

    _given: tuple[str, ...] = ()  # attributes that hold models, scores and texts

    def __init__(self) -> None:
        super().__init__()
        self.message = ipywidgets.HTML()
        self.last_error: BaseException | None = None
        self._cell = _current_cell()
        _close_with_cell(self)

    def compose(self, children: Sequence[ipywidgets.Widget], charts: Sequence[Chart]) -> None:
        """Lay out the panel; `charts` are those that the saved notebook keeps as a picture."""
        self._charts = tuple(charts)
        self.children = (*children, self.message)
        self.add_class("gdv-panel")

    def guarded(self, callback: Callable[..., Any]) -> Callable[..., None]:
        """Wrap a callback so that its error is shown in the panel instead of being lost in a log."""

        @functools.wraps(callback)
        def safely(*args: Any, **kwargs: Any) -> None:
            try:
                callback(*args, **kwargs)
            except Exception as error:
                self.show_error(error)

        return safely

    def show_error(self, error: BaseException) -> None:
        """Show `error` as one line of text; kept as `last_error` for a look at its traceback."""
        self.last_error = error
        line = " ".join(str(error).split()) or type(error).__name__
        self.message.value = (
            f'<div role="alert" style="color: var(--jp-error-color1, #b00020)">'
            f"{html.escape(type(error).__name__)}: {html.escape(line)}</div>"
        )

    def show_message(self, text: str) -> None:
        """Show one line of text, which replaces an error."""
        self.last_error = None
        self.message.value = f'<div role="status">{html.escape(text)}</div>' if text else ""

    def close(self) -> None:
        """Close the panel with everything in it, and let go of what it was given."""
        if self.comm is None:
            return
        _OPEN.discard(self)
        for name in self._given:
            setattr(self, name, None)
        for widget in _descendants(self):
            widget.unobserve_all()
            widget.close()
        self.unobserve_all()
        super().close()

    def _ipython_display_(self) -> None:
        show_and_keep(self, self._charts)


def row(*columns: tuple[ipywidgets.Widget, str]) -> ipywidgets.HBox:
    """Widgets side by side, each with its CSS `flex`; they go below one another where the page is narrow."""
    for widget, flex in columns:
        widget.layout.flex = flex
        widget.layout.min_width = "0"
    return ipywidgets.HBox([widget for widget, _ in columns], layout={"flex_flow": "row wrap"})


def list_html(lines: Sequence[str]) -> str:
    """Sentences as a list; the text is escaped."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul style="line-height: 1.4; margin: 4px 0; padding-left: 20px">{items}</ul>'


def _descendants(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """All widgets below `widget`, with their layouts and styles, the deepest first."""
    found = []
    for child in getattr(widget, "children", ()):
        found += [*_descendants(child), child]
    for name in ("layout", "style"):
        if isinstance(part := getattr(widget, name, None), ipywidgets.Widget):
            found.append(part)
    return found


def _current_cell() -> str | None:
    """The id of the notebook cell that is being executed, if the front-end tells it."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or not hasattr(shell, "get_parent"):
        return None
    return shell.get_parent().get("metadata", {}).get("cellId")


def _close_with_cell(panel: Panel) -> None:
    """Have `panel` closed as soon as its cell runs again."""
    from IPython import get_ipython

    _OPEN.add(panel)
    shell = get_ipython()
    if shell is not None and _close_panels_of_cell not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _close_panels_of_cell)


def _close_panels_of_cell(info: Any) -> None:
    cell = getattr(info, "cell_id", None)
    for panel in list(_OPEN):
        if cell is not None and panel._cell == cell:
            panel.close()
