"""Chart of a picture in the browser, and the same picture as a PNG for pages where no widget runs.

The drawing is an ES module without dependencies (`chart.js`), so no bundler and no network is needed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
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

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return with_static_picture(super()._repr_mimebundle_(**kwargs), [self])


def with_static_picture(bundle: Any, charts: Sequence[Chart]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add a PNG of the charts and their summaries as text to the mime bundle of a widget: for GitHub and for print."""
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
    text = " ".join(chart.picture.summary for chart in charts)
    image = png([chart.picture for chart in charts], relief=[chart.relief for chart in charts])
    data = {**data, "image/png": base64.b64encode(image).decode(), "text/plain": text}
    return data, {**metadata, "image/png": {"alt": text, "needs_background": "light"}}
