"""Panels for notebooks, with the charts and the states behind them."""

from __future__ import annotations

from gdrop_viz.base.lazy import lazy_names

_HOME = {
    "DropoutLab": "dropout_lab",
    "FisherExplorer": "fisher_explorer",
    "LandscapeExplorer": "landscape_explorer",
    "WordsExplorer": "words_explorer",
}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
