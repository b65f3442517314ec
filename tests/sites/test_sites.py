"""Dropout sites are those that the paper and the models' code name, whatever the architecture."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gdrop_viz import dropout_sites, measured_dropout, uniform_dropout
from gdrop_viz.models.anatomy import place_of
from tests.unchanged import differences, snapshot
from tests.zoo import ZOO, build


@pytest.fixture(scope="module")
def bert_base() -> nn.Module:
    """BERT-base's depth at a tiny width."""
    return build("Bert", layers=12).model


def test_bert_base_has_the_37_sites_of_the_paper(bert_base):
    sites = {site.name: site for site in dropout_sites(bert_base)}
    assert len(sites) == 37
    linear = lambda *names: tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))  # noqa: E731
    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "token_type", "position")]
    expected = {"embeddings.dropout": ("embedding", {*tables, *linear("embeddings.LayerNorm")})}
    for i in range(12):
        layer = f"encoder.layer.{i}"
        attention = f"{layer}.attention"
        expected |= {
            f"{attention}.self.dropout": (
                "attention probabilities",
                set(linear(*(f"{attention}.self.{name}" for name in ("query", "key", "value")))),
            ),
            f"{attention}.output.dropout": (
                "attention output",
                set(linear(f"{attention}.output.dense", f"{attention}.output.LayerNorm")),
            ),
            f"{layer}.output.dropout": (
                "feed-forward",
                set(linear(f"{layer}.output.dense", f"{layer}.output.LayerNorm")),
            ),
        }
    assert {name: (site.kind, set(site.parameters)) for name, site in sites.items()} == expected
    assert list(sites) == list(expected), "sites are listed in execution order"
    assert sites["encoder.layer.3.output.dropout"].layer == 3
    assert sites["encoder.layer.3.output.dropout"].owner == "encoder.layer.3.output"
    assert all(site.controllable and site.scheduled and site.rate == 0.1 for site in sites.values())


def test_gpt2_small_has_37_sites():
    sites = {site.name: site for site in dropout_sites(build("GPT2", layers=12).model)}
    assert len(sites) == 37
    expected = {"drop": ("embedding", {"wte.weight", "wpe.weight"})}
    for i in range(12):
        for name, kind, modules in (
            ("attn.attn_dropout", "attention probabilities", ["attn.c_attn"]),
            ("attn.resid_dropout", "attention output", ["attn.c_proj"]),
            ("mlp.dropout", "feed-forward", ["mlp.c_fc", "mlp.c_proj"]),
        ):
            parameters = {f"h.{i}.{module}.{part}" for module in modules for part in ("weight", "bias")}
            expected[f"h.{i}.{name}"] = (kind, parameters)
    assert {name: (site.kind, set(site.parameters)) for name, site in sites.items()} == expected


def test_t5_sites_of_both_stacks():
    sites = {site.name: site for site in dropout_sites(build("T5").model)}
    cross = sites["decoder.block.1.layer.1.EncDecAttention.dropout"]
    assert (cross.kind, cross.stack, cross.layer) == ("attention probabilities", "decoder", 1)
    assert {name.rsplit(".", 2)[-2] for name in cross.parameters} == {"q", "k", "v"}
    assert sites["encoder.dropout"].calls == 2, "one module drops the embeddings and the stack's output"
    assert "shared.weight" in sites["encoder.dropout"].parameters
    assert "shared.weight" in sites["decoder.dropout"].parameters
    assert "encoder.block.0.layer.0.SelfAttention.o.weight" in sites["encoder.block.0.layer.0.dropout"].parameters
    assert sum(site.kind == "attention probabilities" for site in sites.values()) == 6


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "GPT2", "Albert"])
def test_classifier_heads_are_listed_and_left_out(name):
    sites = dropout_sites(build(name, head="ForTokenClassification").model)
    heads = [site for site in sites if site.kind == "head"]
    assert len(heads) == 1
    assert not heads[0].scheduled
    body = dropout_sites(build(name).model)
    assert [site for site in sites if site.kind != "head"] == body, "the body's names do not depend on the head"


def test_bart_number_read_several_times_is_one_site():
    sites = {site.name: site for site in dropout_sites(build("Bart").model)}
    assert sites["encoder.layers.0.dropout"].calls == 2
    assert sites["decoder.layers.0.dropout"].calls == 3
    assert sites["encoder.layers.0.activation_dropout"].parameters[-2:] == (
        "encoder.layers.0.fc1.weight",
        "encoder.layers.0.fc1.bias",
    )


def test_a_rate_written_into_the_code_is_named_not_ignored():
    """Falcon without alibi passes dropout_p=0.0 to fused attention, whatever its configuration says."""
    fixed = [site for site in dropout_sites(build("Falcon").model) if not site.controllable]
    assert [site.name for site in fixed] == [f"h.{i}.self_attention.scaled_dot_product_attention" for i in range(2)]
    assert all(site.kind == "attention probabilities" and site.rate == 0 for site in fixed)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture(name, attention):
    case = build(name, attention=attention)
    before = snapshot(case.model)
    sites = dropout_sites(case.model)
    assert differences(before, snapshot(case.model)) == []
    names = [site.name for site in sites]
    assert len(set(names)) == len(names)
    known = {name.removeprefix(f"{case.model.base_model_prefix}.") for name, _ in case.model.named_parameters()}
    tables = {name for name, _ in case.model.base_model.named_parameters()}
    for site in sites:
        assert site.rate == (0.1 if site.controllable else 0.0)
        assert site.parameters
        assert set(site.parameters) <= known | tables
        assert site.kind != "head"
    assert sum(site.controllable for site in sites) >= 2
    assert measured_dropout(case.model, case.batch) == {site.name: site.rate for site in sites}
    # every dropout module that the code calls is found: those whose p is not read are absent from all forwards
    layers = {site.layer for site in sites if site.stack != "encoder"} - {None}
    assert layers == ({0} if name == "Albert" else {0, 1}), "both layers have sites"
    kinds = {site.kind for site in sites}
    assert "attention probabilities" in kinds or (name == "Falcon" and attention == "eager")


@pytest.mark.parametrize("name", [name for name in ZOO if name != "ModernBert"])
def test_sites_with_rate_zero_are_found_too(name):
    found = dropout_sites(build(name).model)
    at_zero = dropout_sites(build(name, dropout=0.0).model)
    key = lambda site: (site.name, site.owner, site.kind, site.parameters, site.calls, site.controllable)  # noqa: E731
    assert list(map(key, at_zero)) == list(map(key, found))
    assert {site.rate for site in at_zero} == {0.0}


def test_fused_and_eager_attention_have_the_same_sites():
    for name in ("Bert", "GPT2", "OPT", "T5", "Llama"):
        assert dropout_sites(build(name, attention="eager").model) == dropout_sites(build(name).model)


def test_layers_skipped_by_layerdrop_do_not_hide_their_sites():
    model = build("OPT", layers=12, layerdrop=0.9).model
    assert {site.layer for site in dropout_sites(model)} == set(range(12))


def test_whisper_like_float_attributes():
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=40, d_model=16, num_mel_bins=8, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=8,
        max_target_positions=16, dropout=0.1, attention_dropout=0.05, activation_dropout=0.02, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = transformers.WhisperForConditionalGeneration(config)
    rates = {site.name: site.rate for site in dropout_sites(model)}
    assert rates["encoder.layers.0.self_attn.dropout"] == 0.05
    assert rates["decoder.layers.1.activation_dropout"] == 0.02
    assert rates["encoder.dropout"] == rates["decoder.layers.0.dropout"] == 0.1
    assert len(rates) == 2 + 2 * 3 + 2 * 4


class Functional(nn.Module):
    """A model of no library: the functional form, a float attribute, a constant, and torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.out = nn.Linear(4, 4)
        self.rate = 0.2

    def forward(self, input_ids, **_):
        x = F.dropout(self.embed(input_ids), self.rate, self.training)
        x, _ = self.attention(x, x, x)
        return F.dropout(self.out(x), p=0.4)


def test_any_module_of_torch():
    sites = {site.name: site for site in dropout_sites(Functional())}
    assert {name: (site.rate, site.controllable) for name, site in sites.items()} == {
        "rate": (0.2, True),
        "attention.dropout": (0.3, True),
        "dropout.1": (0.4, False),
    }
    assert sites["rate"].parameters == ("embed.weight",)
    assert sites["attention.dropout"].kind == "attention probabilities"
    assert sites["dropout.1"].parameters == ("out.weight", "out.bias")


class DropPath(nn.Module):
    """Stochastic depth: drops whole samples, with a mask of its own."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale = 0.5

    def forward(self, x):
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * torch.rand(len(x), *[1] * (x.dim() - 1)).add_(keep).floor_() / keep


class OwnGaussian(nn.Module):
    """Gaussian dropout as people write it: noise of a variance that no attribute names as a rate."""

    def forward(self, x):
        return x * (1 + 0.5 * torch.randn_like(x)) if self.training else x


def test_modules_that_draw_their_own_masks_are_listed_without_a_control_or_a_rate():
    net = nn.Sequential(nn.Linear(4, 4), DropPath(0.3), OwnGaussian(), nn.Dropout(0.1)).eval()
    batch = {"input": torch.ones(3, 4)}
    before = snapshot(net)
    *own, plain = dropout_sites(net, batch=batch)
    assert [(site.name, site.controllable, site.scheduled) for site in own] == [
        ("1", False, False),
        ("2", False, False),
    ]
    assert all(math.isnan(site.rate) for site in own)
    assert own[0].parameters == ("0.weight", "0.bias")
    assert (plain.name, plain.rate, plain.controllable) == ("3", 0.1, True)
    with uniform_dropout(net, 0.6, batch=batch).applied(net, batch=batch):
        measured = measured_dropout(net, batch)
        assert measured.pop("3") == 0.6
        assert all(map(math.isnan, measured.values()))
    assert differences(before, snapshot(net)) == []


def test_an_attention_kernel_that_hides_its_dropout():
    """FlashAttention and its kin: the rate is seen where the model hands it over."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def opaque(module, query, key, value, attention_mask, dropout=0.0, **kwargs):
        return query.transpose(1, 2).contiguous(), None

    AttentionInterface.register("opaque", opaque)
    try:
        for name in ("Bert", "Llama", "OPT"):
            fused, hidden = build(name).model, build(name, attention="opaque").model
            assert [(s.name, s.kind, s.rate, s.controllable) for s in dropout_sites(hidden)] == [
                (s.name, s.kind, s.rate, s.controllable) for s in dropout_sites(fused)
            ]
            schedule = uniform_dropout(hidden, 0.3)
            with schedule.applied(hidden):
                assert measured_dropout(hidden) == schedule.rates
        assert ALL_ATTENTION_FUNCTIONS["opaque"] is opaque
    finally:
        del AttentionInterface._global_mapping["opaque"]


def test_wrappers_do_not_change_names():
    case = build("Bert")
    names = [site.name for site in dropout_sites(case.model)]
    assert [site.name for site in dropout_sites(nn.DataParallel(case.model))] == names
    assert [site.name for site in dropout_sites(torch.compile(case.model))] == names
    assert [site.name for site in dropout_sites(case.model.bert)] == names


def test_lora_keeps_names_and_its_own_dropout_is_marked():
    peft = pytest.importorskip("peft")
    case = build("Bert", head="ForSequenceClassification")
    plain = dropout_sites(case.model)
    wrapped = peft.get_peft_model(
        case.model, peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.3, target_modules=["query", "value"])
    )
    sites = dropout_sites(wrapped)
    assert [site for site in sites if site.scheduled] == [site for site in plain if site.scheduled]
    adapters = [site for site in sites if site.adapter]
    assert len(adapters) == 4
    assert {site.rate for site in adapters} == {0.3}


def test_frozen_modes_and_buffers_survive():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    net[1].eval()
    before = snapshot(net)
    dropout_sites(net, batch={"input": torch.ones(3, 4)})
    assert differences(before, snapshot(net)) == []


class Recording(nn.Module):
    """Puts a new tensor in a buffer's place, changes one in place, and registers one more."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(0.1)
        self.register_buffer("last", torch.zeros(4))
        self.register_buffer("count", torch.zeros(1))
        self.n_cached = 0

    def forward(self, input):
        self.last = input.mean(0)
        self.count += 1
        self.n_cached = len(input)
        self.register_buffer("largest", input.max())
        return self.dropout(self.linear(input))


def ibert() -> tuple[nn.Module, None]:
    """Quantised weights and ranges are buffers that each forward makes anew."""
    import transformers

    config = transformers.IBertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, quant_mode=True
    )
    return transformers.IBertForMaskedLM(config).eval(), None


@pytest.mark.parametrize("make", [ibert, lambda: (Recording(), {"input": torch.ones(3, 4)})])
def test_buffers_are_the_same_tensors_with_the_same_values(make):
    with torch.random.fork_rng(devices=[]):
        model, batch = make()
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    attributes = [dict(vars(module)) for module in model.modules()]
    dropout_sites(model, batch=batch)
    assert [vars(module).keys() for module in model.modules()] == [known.keys() for known in attributes]
    assert getattr(model, "n_cached", 0) == 0
    after = dict(model.named_buffers())
    assert after.keys() == before.keys()
    for name, (buffer, values) in before.items():
        assert after[name] is buffer
        assert torch.equal(buffer, values)


def test_two_threads_at_one_model_take_turns():
    model, inside, most = build("Bert").model, [], []

    def enter(*_):
        inside.append(threading.get_ident())
        time.sleep(0.01)
        most.append(len(set(inside)))

    model.bert.encoder.layer[0].register_forward_pre_hook(enter)
    model.bert.encoder.layer[1].register_forward_hook(lambda *_: inside.clear())
    expected = dropout_sites(model)
    with ThreadPoolExecutor(2) as pool:
        assert all(sites == expected for sites in pool.map(dropout_sites, [model] * 4))
    assert set(most) == {1}


def test_errors_leave_the_model_alone():
    case = build("GPT2")
    before = snapshot(case.model)
    with pytest.raises(ValueError, match=r"expected GPT2LMHeadModel to run .* on the given batch"):
        dropout_sites(case.model, batch={"nonsense": 1})
    assert differences(before, snapshot(case.model)) == []
    with pytest.raises(TypeError, match="expected model as a"):
        dropout_sites("bert")

    def interrupted(*_):
        raise KeyboardInterrupt

    handle = case.model.transformer.h[1].register_forward_hook(interrupted)
    before = snapshot(case.model)
    with pytest.raises(KeyboardInterrupt):
        dropout_sites(case.model)
    assert differences(before, snapshot(case.model)) == []
    handle.remove()


def test_layers_come_from_the_names():
    for site in dropout_sites(build("Pegasus").model):
        assert site.layer == place_of(site.name).layer
        assert site.stack == site.name.partition(".")[0], "also of the embeddings' dropout"
    assert {site.stack for site in dropout_sites(build("OPT").model)} == {""}, "a lone decoder is no second stack"
