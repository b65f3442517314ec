"""Chart of a picture in the browser, and the same picture as a PNG for pages where no widget runs.

The drawing is an ES module without dependencies (`chart.js`), so no bundler and no network is needed.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from gdrop_viz.plots.picture import Picture
from gdrop_viz.plots.render import png

_HERE = Path(__file__).parent


class Chart(anywidget.AnyWidget):
    """A live view of one `Picture`: lines, markers, intervals and coloured cells, or the cells as a 3-D relief.

    The plot takes the keyboard focus: the arrow keys read out the points (cells), or turn the relief. `cursor` is the
    cell (i, j) under the pointer or the keyboard; `angles` are the azimuth and elevation of the relief in degrees.

    >>> from gdrop_viz.plots.picture import Axis, Picture, Series
    >>> line = Series("loss", [0, 1], [2.0, 1.0])
    >>> chart = Chart(Picture("Loss", "It falls.", Axis("step", (0, 1)), Axis("loss (nats)", (0, 2)), (line,)))
    >>> chart.picture.summary
    'It falls.'
    """

    _esm = _HERE / "chart.js"
    _css = _HERE / "chart.css"

    content = traitlets.Dict().tag(sync=True)
    height = traitlets.Int(260).tag(sync=True)
    relief = traitlets.Bool(False).tag(sync=True)
    angles = traitlets.List([35.0, 35.0]).tag(sync=True)
    kept = traitlets.Unicode().tag(sync=True)
    cursor: traitlets.List[int] = traitlets.List([]).tag(sync=True)

    def __init__(self, picture: Picture, **traits: Any) -> None:
        self._picture = picture
        super().__init__(content=picture.to_json(), **traits)

    @property
    def picture(self) -> Picture:
        """What is shown now."""
        return self._picture

    def show(self, picture: Picture) -> None:
        """Replace the picture: one message to the browser, which redraws in place."""
        self._picture = picture
        self.content = picture.to_json()

    def _ipython_display_(self) -> None:
        show_and_keep(self, [self])


def kept_bundle(charts: Sequence[Chart], kept: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stays of `charts` in a saved notebook: a picture, its sentences, and how to bring the panel back.

    The live charts hide it by the name `kept`. Where a front-end says in place of a panel that its model is gone, the
    picture stands without that line.
    """
    text = " ".join(chart.picture.summary for chart in charts)
    image = png([chart.picture for chart in charts], relief=[chart.relief for chart in charts])
    encoded = base64.b64encode(image).decode()
    page = (
        f'<div class="gdv-kept" data-gdv-kept="{kept}">'
        "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .gdv-kept) .jupyter-widgets:not(:has(*))"
        " { display: none; }</style>"
        f'<img alt="{html.escape(text)}" src="data:image/png;base64,{encoded}" style="background: white">'
        "<p>This picture is what a panel has left here. Run this cell to bring the panel back.</p></div>"
    )
    data = {"image/png": encoded, "text/html": page, "text/plain": text}
    return data, {"image/png": {"alt": text, "needs_background": "light"}}


def show_and_keep(widget: ipywidgets.DOMWidget, charts: Sequence[Chart]) -> None:
    """Display `widget`, and after it what stays of its `charts` when the notebook is opened again."""
    from IPython.display import display

    kept = widget.model_id
    for chart in charts:
        chart.kept = kept
    view = widget._repr_mimebundle_()
    data, metadata = view if isinstance(view, tuple) else (view or {}, {})
    display({**data, "text/plain": "A panel: run this cell to bring it back."}, metadata=metadata, raw=True)
    left, described = kept_bundle(charts, kept)
    display(left, metadata=described, raw=True)
