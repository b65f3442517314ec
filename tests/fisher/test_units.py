"""Views by head and by neuron: they hold exactly the elements of those units, so that one cut off goes silent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers

from gdrop_viz import Fisher, fisher_information
from gdrop_viz.fisher.units import by_head, by_neuron
from tests.zoo import HEADS, build, make_batch


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
    ("GPTNeo", "head"): ["out_proj"],
    ("GPTNeo", "neuron"): ["c_proj"],
    ("Bloom", "head"): ["dense"],
    ("Bloom", "neuron"): ["dense_4h_to_h"],
    ("Phi", "head"): ["dense"],
    ("Phi", "neuron"): ["fc2"],
    ("Gemma", "head"): ["o_proj"],
    ("Gemma", "neuron"): ["down_proj"],
    ("Falcon", "head"): ["dense"],
    ("Falcon", "neuron"): ["dense_4h_to_h"],
}
# with a key and value for each head; Gemma's heads together wider than the model
SETTINGS = {
    "Llama": {"num_key_value_heads": HEADS},
    "Gemma": {"num_key_value_heads": HEADS, "head_dim": 12},
    "Falcon": {"multi_query": False},
    "Falcon, new": {"new_decoder_architecture": True, "num_kv_heads": HEADS},
}


# the output projection reads a head (or a neuron) alone: without its columns nothing of the unit is seen any more
@pytest.mark.parametrize("name", [*dict.fromkeys(name for name, _ in OUTPUTS), "Falcon, new"])
@pytest.mark.parametrize("unit", ["head", "neuron"])
def test_a_unit_whose_output_is_cut_has_no_information(name, unit):
    settings = SETTINGS.get(name, {})
    name = name.split(",")[0]
    case = build(name, dtype=torch.float64, **settings)
    fisher = information(case)
    scores, layouts = fisher.scores, fisher.layouts

    def part(name, score):
        return (by_head if unit == "head" else by_neuron)(name, score, layouts[name])

    parameters = dict(case.model.named_parameters())
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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Falcon", {}),  # one key and value for all heads
        ("Falcon", {"new_decoder_architecture": True, "num_attention_heads": 4, "num_kv_heads": 2}),
        ("Mistral", {}),
    ],
)
def test_keys_and_values_that_heads_share_are_not_divided(name, settings):
    heads = information(build(name, **settings)).heads()
    assert len(heads.columns) == settings.get("num_attention_heads", HEADS)
    assert len(heads)
    assert not heads.index.str.contains("query_key_value|k_proj|v_proj").any()


def with_random_weights(model_class, config):
    torch.manual_seed(0)
    model = model_class(config).eval()
    return SimpleNamespace(model=model, batch=make_batch("mlm", lengths=(9, 9, 9)))  # its convolution sees padding


def test_fewer_heads_than_configured():
    """ConvBERT's attention has `head_ratio` times fewer heads, and its output mixes them with a convolution's."""
    size = dict(vocab_size=72, hidden_size=16, embedding_size=16, num_hidden_layers=1, intermediate_size=24)
    config = transformers.ConvBertConfig(**size, num_attention_heads=4, head_ratio=2, conv_kernel_size=3)
    case = with_random_weights(transformers.ConvBertForMaskedLM, config)
    fisher = information(case)
    heads = fisher.heads()
    assert len(heads.columns) == 2
    assert set(heads.index.str.extract(r"self\.(\w+)\.weight")[0].dropna()) == {"query", "key", "value"}
    name = "convbert.encoder.layer.0.attention.self.key.weight"
    assert heads.loc[name, 1] == pytest.approx(float(fisher.scores[name][4:].double().mean()))


def test_heads_and_neurons_below_an_adapter():
    peft = pytest.importorskip("peft")
    case = build("Bert")
    plain = information(case)
    config = peft.LoraConfig(target_modules=["query", "value", "intermediate.dense"], r=2)
    adapted = information(SimpleNamespace(model=peft.get_peft_model(case.model, config).eval(), batch=case.batch))
    for unit in ("head", "neuron"):
        expected, found = plain.grouped(unit), adapted.grouped(unit)
        assert list(found.index) == list(expected.index)
        assert (found["tensors"] == expected["tensors"]).all()
        assert found["mean"].to_numpy() == pytest.approx(expected["mean"].to_numpy(), rel=1e-3)


@pytest.mark.parametrize("name", ["GPTNeo", "GPT2", "Bert"])
def test_output_units_of_a_square_or_transposed_matrix(name):
    """With one output unit's gradient cut off, exactly that unit has no information."""
    case = build(name, dtype=torch.float64)
    for part in ("c_fc", "attention.out_proj", "attn.c_proj", "attention.self.query"):
        modules = [(key, module) for key, module in case.model.named_modules() if key.endswith(part)]
        for key, module in modules[:1]:

            def cut(module, args, output):
                keep = torch.ones(output.shape[-1], dtype=output.dtype)
                keep[3] = 0
                return output * keep

            handle = module.register_forward_hook(cut)
            units = information(case).neurons(f"{key}.weight")
            handle.remove()
            assert len(units) == (24 if part == "c_fc" else 16)
            assert float(units[3]) <= 1e-20 * float(units.max())
            assert (units > 0).sum() > len(units) // 2


def test_layouts_are_kept_in_the_file(tmp_path):
    fisher = information(build("GPT2"))
    fisher.save(tmp_path / "f.safetensors")
    loaded = Fisher.load(tmp_path / "f.safetensors")
    assert loaded.layouts == fisher.layouts
    assert loaded.grouped("head").equals(fisher.grouped("head"))


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="needs a score per parameter"):
        Fisher.from_means({"h.0.attn.c_attn.weight": 1.0}).grouped("head")
    case = build("Bert")
    fisher = fisher_information(
        case.model, [case.batch], parameters=["cls.predictions.bias"], method="batched", progress=False
    )
    with pytest.raises(ValueError, match="No tensor is known to hold neurons"):
        fisher.grouped("neuron")
