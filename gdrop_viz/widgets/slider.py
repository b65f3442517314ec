"""Labelled slider with a number field that always shows the same value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_HERE = Path(__file__).parent


class NumberSlider(anywidget.AnyWidget):
    """A slider with a number field beside it, built of the browser's own inputs.

    Native inputs bring the keyboard (arrows, Page keys, Home, End) and a name for screen readers, which the sliders
    of ipywidgets lack. A value outside [min, max] is moved to the nearest bound; but what is typed above `max`, up to
    `limit`, widens the slider. `integer` rounds, `odd` to the next odd number.

    >>> lower = NumberSlider("lower", value=0.7, min=0.0, max=0.5, step=0.01)
    >>> lower.value
    0.5
    """

    _esm = _HERE / "slider.js"
    _css = _HERE / "slider.css"

    description = traitlets.Unicode().tag(sync=True)
    help = traitlets.Unicode().tag(sync=True)
    min = traitlets.Float(0.0).tag(sync=True)
    max = traitlets.Float(1.0).tag(sync=True)
    step = traitlets.Float(0.01).tag(sync=True)
    value = traitlets.Float(0.0).tag(sync=True)
    integer = traitlets.Bool(False).tag(sync=True)
    odd = traitlets.Bool(False).tag(sync=True)
    limit = traitlets.Float(None, allow_none=True).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)

    def __init__(self, description: str, *, value: float, min: float, max: float, step: float, **traits: Any) -> None:
        if not min < max:
            raise ValueError(f"slider {description!r}: expected min < max, got {min} and {max}")
        super().__init__(description=description, min=min, max=max, step=step, **traits)
        self.value = value

    @traitlets.validate("value")
    def _within_bounds(self, proposal: Any) -> float:
        value = proposal["value"]
        if not math.isfinite(value):
            raise traitlets.TraitError(f"slider {self.description!r}: expected a finite number, got {value}")
        if self.odd:
            value = 2 * math.floor(value / 2) + 1
        elif self.integer:
            value = round(value)
        if self.limit is not None and value > self.max:
            self.max = float(min(value, self.limit))
        return float(min(max(value, self.min), self.max))
