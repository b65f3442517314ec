"""Folded box with the exact call of a panel, ready to copy."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_HERE = Path(__file__).parent


class CodeBox(anywidget.AnyWidget):
    """A folded box that shows `code` and copies it to the clipboard.

    >>> CodeBox(code="gv.compare(...)").code
    'gv.compare(...)'
    """

    _esm = _HERE / "code_box.js"
    _css = _HERE / "code_box.css"

    description = traitlets.Unicode("Copy as code").tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)
