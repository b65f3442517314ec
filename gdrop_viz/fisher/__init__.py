"""Diagonal Fisher information of a language model, exact per sequence."""

from __future__ import annotations

from gdrop_viz.fisher.estimate import fisher_information
from gdrop_viz.fisher.result import Fisher
from gdrop_viz.fisher.stability import stability

__all__ = ["Fisher", "fisher_information", "stability"]
