"""Do the views by head and by neuron hold exactly the elements of those units? Cut one off and see what goes silent."""

from __future__ import annotations

import pytest
import torch

from gdrop_viz import Fisher, fisher_information
from gdrop_viz.fisher.units import by_head, by_neuron
from tests.zoo import HEADS, build


def information(case) -> Fisher:
    return fisher_information(case.model, [case.batch], method="batched", progress=False)


def marked(name: str, score: torch.Tensor, part: torch.Tensor, unit: int) -> torch.Tensor:
    """Where in the tensor the elements of one unit lie."""
    numbered = torch.arange(score.numel(), dtype=torch.float64).reshape(score.shape)
    own = part(name, numbered)[unit].long()
    return torch.zeros(score.numel(), dtype=torch.bool).index_fill_(0, own, True).reshape(score.shape)


# the projection out of each unit
OUTPUTS = {
    ("Bert", "head"): ["dense"],
    ("Bert", "neuron"): ["dense"],
    ("DistilBert", "head"): ["out_lin"],
    ("DistilBert", "neuron"): ["lin2"],
    ("ModernBert", "head"): ["Wo"],
    ("ModernBert", "neuron"): ["Wo"],
    ("GPT2", "head"): ["c_proj"],
    ("GPT2", "neuron"): ["c_proj"],
    ("OPT", "head"): ["out_proj"],
    ("OPT", "neuron"): ["fc2"],
    ("GPTNeoX", "head"): ["dense"],
    ("GPTNeoX", "neuron"): ["dense_4h_to_h"],
    ("Llama", "head"): ["o_proj"],
    ("Llama", "neuron"): ["down_proj"],
    ("T5", "head"): ["o"],
    ("T5", "neuron"): ["wo"],
    ("Bart", "head"): ["out_proj"],
    ("Bart", "neuron"): ["fc2"],
}


# the output projection reads a head (or a neuron) alone: without its columns nothing of the unit is seen any more
@pytest.mark.parametrize("name", ["Bert", "DistilBert", "ModernBert", "GPT2", "OPT", "GPTNeoX", "Llama", "T5", "Bart"])
@pytest.mark.parametrize("unit", ["head", "neuron"])
def test_a_unit_whose_output_is_cut_has_no_information(name, unit):
    # with a key and value for each head
    settings = {"num_key_value_heads": HEADS} if name == "Llama" else {}
    case = build(name, dtype=torch.float64, **settings)
    part = (lambda name, score: by_head(name, score, HEADS)) if unit == "head" else by_neuron
    parameters = dict(case.model.named_parameters())
    scores = information(case).scores
    held = {key: score for key, score in scores.items() if part(key, score) is not None}
    assert len(held) >= 2 * 2
    places = information(case).grouped(unit)
    assert (places["mean"] > 0).mean() > 0.5  # a rectified neuron may never fire
    assert 0 < places["share"].sum() < 1
    outputs = [key for key in held if key.split(".")[-2] in OUTPUTS[name, unit] and key.endswith("weight")]
    assert outputs
    with torch.no_grad():
        for key in outputs:
            parameters[key][marked(key, parameters[key], part, 1)] = 0
    cut = information(case)
    table = cut.grouped(unit)
    for key in held:
        own = marked(key, cut.scores[key], part, 1)
        if key not in outputs:
            # nothing behind the unit reads it: its other parameters have no gradient
            assert float(cut.scores[key][own].max()) <= 1e-20 * float(cut.scores[key].max()), key
            assert float(cut.scores[key][~own].max()) > 0
    means = [float(cut.scores[key][marked(key, cut.scores[key], part, 1)].mean()) for key in in_layer(held, 0, name)]
    first = table.index.get_level_values(0)[0]
    assert table.loc[(first, 1), "mean"] == pytest.approx(sum(means) / len(means))


def in_layer(held, layer, name):
    """The tensors of the first stack's given layer."""
    first = next(iter(held)).split(f".{layer}.")[0]
    return [key for key in held if key.startswith(f"{first}.{layer}.")]


def test_shared_keys_and_values_belong_to_no_head():
    heads = information(build("Llama")).heads()
    assert not heads.index.str.contains("k_proj|v_proj").any()
    assert heads.index.str.contains("q_proj").sum() == heads.index.str.contains("o_proj").sum() == 2


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="needs a score per parameter"):
        Fisher.from_means({"h.0.attn.c_attn.weight": 1.0}).grouped("head")
    case = build("Bert")
    fisher = fisher_information(
        case.model, [case.batch], parameters=["cls.predictions.bias"], method="batched", progress=False
    )
    with pytest.raises(ValueError, match="No tensor is known to hold neurons"):
        fisher.grouped("neuron")
