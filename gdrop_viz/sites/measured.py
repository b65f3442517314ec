"""Measured dropout: the rate that a model really uses at every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gdrop_viz.sites.sites import dropout_sites


def measured_dropout(model: nn.Module, batch: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Return the rate that a training-mode forward of `model` on `batch` uses at every site, in execution order.

    What is reported is the probability that reached the dropout function itself (zero if it was called with
    `training=False`), not the attribute it should come from. The model and all generators are left as they were.

    Parameters
    ----------
    model
        Any model.
    batch
        Keyword arguments of its forward; by default a tiny dummy batch.

    Returns
    -------
    Site name -> rate. It is NaN for a module that draws its mask itself, since no probability is to be seen there.

    Raises
    ------
    TypeError, ValueError
        As `dropout_sites`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25)).eval()
    >>> measured_dropout(net, {"input": torch.ones(1, 4)})
    {'1': 0.25}
    """
    return {site.name: site.rate for site in dropout_sites(model, batch=batch)}
