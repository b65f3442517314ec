"""Attention heads and hidden neurons: which elements of a tensor belong to each.

What a matrix is for (query, output projection, ...) is read from its dotted name, as the places in `models.anatomy`
are; how it is divided comes from the model (layouts.py). A head owns its rows of the query, key and value projections
(weights and biases) and its columns of the output projection; a neuron of a feed-forward block owns its row of the
projection in, its bias, and its column of the projection out. What serves all units alike (an output projection's bias,
a norm) belongs to none, and neither does a tensor whose size is not that of the heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from gdrop_viz.fisher.layouts import Layout
from gdrop_viz.models.anatomy import place_of, places_of
from gdrop_viz.models.backbone import plain_name

if TYPE_CHECKING:
    import pandas as pd

_PROJECTIONS = "query key value q k v q_proj k_proj v_proj q_lin k_lin v_lin query_proj key_proj value_proj".split()
_SHARED = "key value k v k_proj v_proj".split()  # by several heads, where there are fewer of them than of queries
_FUSED_BY_PART = ("c_attn", "Wqkv")  # all queries, then all keys, then all values
_FUSED_BY_HEAD = ("query_key_value",)  # of GPT-NeoX and BLOOM: query, key and value of head 0, then of head 1
_OUT_OF_ATTENTION = ("dense", "o", "o_proj", "out_proj", "out_lin", "c_proj", "Wo")
_INTO_FEED_FORWARD = (
    "dense fc1 fc_in c_fc wi wi_0 wi_1 lin1 ffn gate_proj up_proj dense_h_to_4h Wi".split()  # Wi: input, then gate
)
_OUT_OF_FEED_FORWARD = "dense fc2 fc_out c_proj wo lin2 ffn_output down_proj dense_4h_to_h Wo".split()


def by_head(name: str, score: Tensor, layout: Layout) -> Tensor | None:
    """The elements of one tensor by head, (n_heads, elements of each); None if they belong to no head.

    Keys and values that several heads share (grouped queries) belong to none of them alone.

    >>> import torch
    >>> name = "layer.0.attention.self.query.weight"
    >>> by_head(name, torch.arange(8.0).view(4, 2), Layout(n_heads=2)).tolist()
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    """
    module, n_heads = _module(name), layout.n_heads
    if n_heads is None or _component(name) != "attention" or score.dim() not in (1, 2):
        return None
    is_shared = layout.n_key_value_heads not in (None, n_heads)
    rows = _output_units_first(score, layout)

    def divides(size: int, parts: int = 1) -> bool:
        return size % (parts * n_heads) == 0 if layout.head_size is None else size == parts * n_heads * layout.head_size

    if module in (*_FUSED_BY_PART, *_FUSED_BY_HEAD):
        if is_shared or not divides(len(rows), 3):
            return None
        by_part = module in _FUSED_BY_PART
        return rows.reshape(3, n_heads, -1).transpose(0, 1).flatten(1) if by_part else rows.reshape(n_heads, -1)
    if module in _PROJECTIONS:
        return rows.reshape(n_heads, -1) if divides(len(rows)) and not (is_shared and module in _SHARED) else None
    if module in _OUT_OF_ATTENTION and score.dim() == 2 and divides(rows.shape[1]):
        return rows.T.reshape(n_heads, -1)
    return None


def by_neuron(name: str, score: Tensor, layout: Layout) -> Tensor | None:
    """The elements of one tensor by hidden neuron of its feed-forward block, (neurons, elements of each), or None.

    >>> import torch
    >>> by_neuron("layer.0.output.dense.weight", torch.arange(6.0).view(2, 3), Layout()).shape
    torch.Size([3, 2])
    """
    parts = plain_name(name).split(".")
    module, is_bias = _module(name), name.endswith("bias")
    if _component(name) != "feed-forward" or score.dim() not in (1, 2):
        return None
    rows = _output_units_first(score, layout)
    into = module in _INTO_FEED_FORWARD and not (module == "dense" and "intermediate" not in parts)
    if into:
        return rows.reshape(2, len(rows) // 2, -1).transpose(0, 1).flatten(1) if module == "Wi" else rows.flatten(1)
    if module in _OUT_OF_FEED_FORWARD and not is_bias and score.dim() == 2:
        return rows.T
    return None


def by_unit(scores: Mapping[str, Tensor], unit: str, layouts: Mapping[str, Layout]) -> pd.DataFrame:
    """A row per (layer, unit), `unit` being "head" or "neuron".

    mean: unweighted mean of the means of the unit's part of each tensor; weighted mean: per element; share: of all
    information, Σ scores; elements: of the unit.
    """
    import pandas as pd

    total = sum(float(score.double().sum()) for score in scores.values()) or 1.0
    places = places_of(scores)
    rows = []
    for name, score in scores.items():
        of_units = (by_head if unit == "head" else by_neuron)(name, score, layouts.get(name, Layout()))
        if of_units is None or places[name].layer is None:
            continue
        means = of_units.double().mean(1)
        elements = of_units.shape[1]
        rows += [(places[name].label, k, elements, mean, mean * elements) for k, mean in enumerate(means.tolist())]
    if not rows:
        raise ValueError(f"No tensor is known to hold {unit}s; fisher.neurons(name) has the units of any one matrix.")
    frame = pd.DataFrame(rows, columns=["layer", unit, "elements", "mean", "sum"])
    groups = frame.groupby(["layer", unit], sort=False)
    table = groups.agg(tensors=("mean", "size"), elements=("elements", "sum"), mean=("mean", "mean"))
    table["share"] = groups["sum"].sum() / total
    table["weighted mean"] = groups["sum"].sum() / table["elements"]
    table["standard error"] = float("nan")  # single sequences are remembered per tensor only
    return table


def _module(name: str) -> str:
    return plain_name(name).rsplit(".", 2)[-2] if "." in name else name


def _component(name: str) -> str:
    return place_of(plain_name(name)).component


def _output_units_first(score: Tensor, layout: Layout) -> Tensor:
    """(out, in) of a matrix, (out, 1) of a bias."""
    if score.dim() == 1:
        return score.unsqueeze(1)
    return score.T if layout.inputs_first else score
