"""Place of a parameter in a transformer: its stack, layer and component.

It is read from the parameter's dotted name alone, so that a saved Fisher file can be grouped without its model. The
naming habits of the Hugging Face model zoo are covered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

COMPONENTS = ("embedding", "attention", "feed-forward", "norm", "head", "other")

_NORM = re.compile(r"(norm|^ln$|^ln_|_ln$|layernorm)", re.IGNORECASE)
_EMBEDDING = re.compile(r"(embed|^wte$|^wpe$|^shared$)", re.IGNORECASE)
_HEAD = re.compile(
    r"^(cls|lm_head|classifier|score|qa_outputs|classification_head|pre_classifier|vocab_\w+|predictions"
    r"|generator_\w+|sop_classifier|summary|pooler|decoder|head|final_logits_bias)$"
)
_ATTENTION = re.compile(
    r"(attention|attn|^attn$|query|key|value|^[qkv]_proj$|^o_proj$|^out_proj$|relative_)", re.IGNORECASE
)
_FEED_FORWARD = re.compile(
    r"(mlp|intermediate|^ffn|^fc\d?$|^fc_in$|^fc_out$|DenseReluDense|feed_forward|experts|^lin[12]$|^gate$|bottleneck"
    r"|^output$|dense_h_to_4h|dense_4h_to_h|^c_fc$|^wi|^wo$)"
)


class Place(NamedTuple):
    """A parameter's place: `stack` ("", "encoder" or "decoder"), `layer` (None outside the layers), `component`."""

    stack: str
    layer: int | None
    component: str

    @property
    def label(self) -> str:
        """A short name of the layer for axes and tables: "embedding", "layer 3", "decoder 0", "head"."""
        if self.layer is None:
            return self.component
        return f"{self.stack or 'layer'} {self.layer}"


def place_of(name: str) -> Place:
    """Return where the parameter (or module) with the dotted `name` lies.

    The stack is named only in encoder-decoders, where both "encoder" and "decoder" hold layers: a BERT layer under
    "bert.encoder" is simply a layer. A norm is "norm" wherever it is; a parameter outside the numbered layers that
    is no embedding and no norm belongs to the head if its name says so.

    >>> place_of("bert.encoder.layer.3.attention.self.query.weight")
    Place(stack='', layer=3, component='attention')
    >>> place_of("decoder.block.0.layer.1.EncDecAttention.q.weight").label
    'decoder 0'
    >>> place_of("transformer.wte.weight").component
    'embedding'
    """
    parts = name.split(".")
    first_index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    layer = int(parts[first_index]) if first_index is not None else None
    before = parts[: first_index or 0]
    stack = ""
    if layer is not None and before:
        if "decoder" in before:
            stack = "decoder"
        elif "encoder" in before and before[-1] in ("block", "layers"):
            stack = "encoder"
    return Place(stack, layer, _component(parts, layer))


def places_of(names: Iterable[str]) -> dict[str, Place]:
    """Places of all parameters of one model: a stack is named only where the model has two of them.

    >>> places_of(["model.decoder.layers.0.fc1.weight"])["model.decoder.layers.0.fc1.weight"].label
    'layer 0'
    """
    places = {name: place_of(name) for name in names}
    if len({place.stack for place in places.values() if place.layer is not None}) > 1:
        return places
    return {name: place._replace(stack="") for name, place in places.items()}


def _component(parts: list[str], layer: int | None) -> str:
    if parts[-1] in ("weight", "bias") and len(parts) > 1:
        parts = parts[:-1]
    # the innermost telling name wins: attention.output.LayerNorm is a norm, attention.output.dense is attention
    if _NORM.search(parts[-1]):
        return "head" if _HEAD.match(parts[0]) and layer is None else "norm"
    if layer is None:
        if _HEAD.match(parts[0]):
            return "head"
        if any(_EMBEDDING.search(part) for part in parts):
            return "embedding"
        if len(parts) > 1 and _HEAD.match(parts[1]):
            return "head"
    if any(_ATTENTION.search(part) for part in parts):
        return "attention"
    if any(_FEED_FORWARD.search(part) for part in parts):
        return "feed-forward"
    if any(_EMBEDDING.search(part) for part in parts):
        return "embedding"
    return "other"
