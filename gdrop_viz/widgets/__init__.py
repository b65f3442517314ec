"""Which panels can a person play with? The three explorers; the charts and states behind them are in this folder."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "DropoutLab": "dropout_lab",
    "FisherExplorer": "fisher_explorer",
    "LandscapeExplorer": "landscape_explorer",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gdrop_viz.widgets' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    value = getattr(importlib.import_module(f"gdrop_viz.widgets.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
