"""Places of parameters, held against the module trees of the architectures themselves."""

from __future__ import annotations

import pytest
from torch import nn

from gdrop_viz.models.anatomy import COMPONENTS, place_of, places_of
from tests.zoo import ZOO, build


@pytest.mark.parametrize("name", ZOO)
def test_places_agree_with_the_module_classes(name):
    model = build(name).model
    places = places_of([parameter for parameter, _ in model.named_parameters()])
    assert {place.component for place in places.values()} <= set(COMPONENTS) - {"other"}, {
        parameter for parameter, place in places.items() if place.component == "other"
    }
    for path, module in model.named_modules():
        for local, _ in module.named_parameters(recurse=False):
            place = places.get(f"{path}.{local}")
            if place is None:
                continue  # a tied parameter goes by its first name
            if "Norm" in type(module).__name__:
                assert place.component in ("norm", "head"), path
            elif isinstance(module, nn.Embedding) and place.layer is None and "relative" not in path:
                assert place.component == "embedding", path
    layers = {(place.stack, place.layer) for place in places.values() if place.layer is not None}
    stacks = {stack for stack, _ in layers}
    assert stacks == ({"encoder", "decoder"} if model.config.is_encoder_decoder else {""})


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("bert.encoder.layer.3.attention.output.dense.weight", "attention"),
        ("bert.encoder.layer.3.attention.output.LayerNorm.bias", "norm"),
        ("bert.encoder.layer.3.intermediate.dense.weight", "feed-forward"),
        ("bert.encoder.layer.3.output.dense.weight", "feed-forward"),
        ("cls.predictions.transform.dense.weight", "head"),
        ("classifier.bias", "head"),
        ("transformer.h.0.mlp.c_proj.weight", "feed-forward"),
        ("transformer.h.0.attn.c_proj.weight", "attention"),
        ("transformer.ln_f.weight", "norm"),
        ("model.layers.0.self_attn.o_proj.weight", "attention"),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", "feed-forward"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "attention"),
        ("decoder.block.0.layer.2.DenseReluDense.wi_0.weight", "feed-forward"),
        ("shared.weight", "embedding"),
        ("lm_head.weight", "head"),
    ],
)
def test_components_by_hand(name, component):
    assert place_of(name).component == component
