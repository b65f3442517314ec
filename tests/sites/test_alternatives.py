"""Dropout inside experts: found and set in each of them, whichever the tokens reach."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from gdrop_viz import dropout_sites, guided_dropout, measured_dropout, uniform_dropout
from gdrop_viz.models.backbone import backbone_of
from tests.dropout.stand_ins import made_up_fisher
from tests.unchanged import differences, snapshot

_SEQ2SEQ = dict(vocab_size=72, d_model=16, decoder_start_token_id=0)


def switch() -> nn.Module:
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    config = SwitchTransformersConfig(
        **_SEQ2SEQ, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2, num_experts=4,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, relative_attention_num_buckets=8,
    )  # fmt: skip
    return SwitchTransformersForConditionalGeneration(config)


def nllb_moe() -> nn.Module:
    from transformers import NllbMoeConfig, NllbMoeForConditionalGeneration

    config = NllbMoeConfig(
        **_SEQ2SEQ, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, num_experts=4, encoder_sparse_step=2, decoder_sparse_step=2,
        max_position_embeddings=32,
    )  # fmt: skip
    return NllbMoeForConditionalGeneration(config)


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, *, scale):
        return self.dropout(self.linear(x) * scale)


class HandWritten(nn.Module):
    """A router of one's own: the whole batch goes to one expert, named as an attribute and with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.left, self.right, self.middle = Expert(), Expert(), Expert()

    def forward(self, input_ids, **_):
        x = self.embed(input_ids)
        chosen = [self.left, self.right, self.middle][int(x.sum().abs() * 1000) % 3]
        return chosen(x, scale=2.0)


# with how many dropouts in experts there are, and a word by which their paths tell them
class Bare(nn.Module):
    """An expert without parts: a matrix, a rate, and the function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.rate = nn.Parameter(torch.randn(4, 4)), 0.1

    def forward(self, x):
        return nn.functional.dropout(x @ self.weight, self.rate, self.training)


class OfFunctions(nn.Module):
    """Experts in a dictionary, the best one for each token, that drop by a number of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Embedding(8, 4), nn.Linear(4, 5)
        self.experts = nn.ModuleDict({name: Bare() for name in "abcde"})

    def forward(self, input_ids, **_):
        x = self.embed(input_ids)
        best, out = self.router(x).argmax(-1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts.values()):
            if (best == i).any():
                out[best == i] = expert(x[best == i])
        return out


MODELS = {"Switch": (switch, 8, "expert_"), "NLLB-MoE": (nllb_moe, 8, "expert_"), "hand-written": (HandWritten, 3, "")}


def seeded(make, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@pytest.mark.parametrize("name", MODELS)
def test_every_expert_is_a_site_whichever_the_tokens_reach(name):
    make, n_experts, word = MODELS[name]
    for seed in range(4):  # of the router's weights
        model = seeded(make, seed)
        prefix = f"{backbone_of(model).prefix}.".removeprefix(".")
        experts = {
            path.removeprefix(prefix): module
            for path, module in model.named_modules()
            if isinstance(module, nn.Dropout) and word in path
        }
        assert len(experts) == n_experts
        before = snapshot(model)
        sites = {site.name: site for site in dropout_sites(model)}
        assert differences(before, snapshot(model)) == []
        assert experts.keys() <= sites.keys()
        assert all(sites[path].parameters for path in experts)
        schedule = guided_dropout(model, made_up_fisher(model), lower=0.2, upper=0.4)
        schedule.apply(model)
        assert {path: module.p for path, module in experts.items()} == {path: schedule.rates[path] for path in experts}
        assert measured_dropout(model) == schedule.rates


def test_experts_that_drop_by_a_number_of_their_own():
    for seed in range(4):
        model = seeded(OfFunctions, seed)
        schedule = uniform_dropout(model, 0.4)
        assert sorted(schedule.rates) == [f"experts.{name}.rate" for name in "abcde"]
        schedule.apply(model)
        assert {expert.rate for expert in model.experts.values()} == {0.4}


def capped(self, x, *, scale):
    """The forward of an expert whose rate follows its attribute only up to a point: nothing but a run shows it."""
    return nn.functional.dropout(self.linear(x) * scale, min(self.dropout.p, 0.2), self.training)


def test_a_rate_that_does_not_take_in_an_expert_that_no_token_reaches():
    model = seeded(HandWritten, 0)
    experts = [model.left, model.right, model.middle]
    reached = []
    handles = [expert.register_forward_hook(lambda module, *_: reached.append(module)) for expert in experts]
    model(torch.tensor([[3, 4, 5, 6]]))  # as the dummy batch
    for handle in handles:
        handle.remove()
    missed = next(expert for expert in experts if expert is not reached[0])
    missed.forward = types.MethodType(capped, missed)
    with pytest.raises(RuntimeError, match=r"\(wanted 0\.5, measured 0\.2\) did not take"):
        uniform_dropout(model, 0.5).apply(model)
    assert {expert.dropout.p for expert in experts} == {0.1}


class Layers(nn.Module):
    """Three layers of one make, of which the forward runs two, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Expert() for _ in range(3))

    def forward(self, x):
        for layer in self.layers[:2]:
            x = layer(x, scale=1.0)
        return x


def test_layers_that_a_forward_leaves_out_are_no_experts():
    sites = dropout_sites(Layers(), batch={"x": torch.ones(1, 4)})
    assert [site.name for site in sites] == ["layers.0.dropout", "layers.1.dropout"]
