"""Gaussian dropout: the variance of dropout, at every site, in training only, and gone afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gdrop_viz import DropoutSchedule, gaussian_dropout, guided_dropout, measured_dropout, uniform_dropout
from gdrop_viz.dropout.noise import _attention, gaussian_noise
from tests.dropout.stand_ins import made_up_fisher
from tests.unchanged import differences, snapshot
from tests.zoo import ZOO, build

pytestmark = pytest.mark.filterwarnings("ignore:fused attention")


@pytest.mark.parametrize("name", ZOO)
def test_every_architecture(name):
    case = build(name)
    schedule = uniform_dropout(case.model, 0.3)
    before = snapshot(case.model)
    quiet = case.model(**case.batch).logits
    with gaussian_dropout(case.model, 0.3):
        measured = measured_dropout(case.model, case.batch)
        assert {site: measured[site] for site in schedule.rates} == schedule.rates
        assert torch.equal(case.model(**case.batch).logits, quiet), "no noise at evaluation"
        case.model.train()
        with torch.random.fork_rng(devices=[]):
            first, second = (case.model(**case.batch).logits for _ in range(2))
        assert not torch.allclose(first, second), "noise in training"
        case.model.eval()
    assert differences(before, snapshot(case.model)) == []


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_mean_and_variance(p):
    torch.manual_seed(0)
    x = torch.full((400_000,), 2.0)
    noisy = gaussian_noise(x, p) / x
    # standard errors: of the mean sqrt(v / n), of the variance v sqrt(2 / n); five of them
    variance = p / (1 - p)
    assert noisy.mean().item() == pytest.approx(1, abs=5 * (variance / len(x)) ** 0.5)
    assert noisy.var().item() == pytest.approx(variance, abs=5 * variance * (2 / len(x)) ** 0.5)
    # Gaussian: skewness 0 and kurtosis 3, unlike dropout's two values
    z = (noisy - noisy.mean()) / noisy.std()
    assert z.pow(3).mean().item() == pytest.approx(0, abs=5 * (6 / len(x)) ** 0.5)
    assert z.pow(4).mean().item() == pytest.approx(3, abs=5 * (24 / len(x)) ** 0.5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_probabilities_get_the_variance_of_the_formula(attention):
    """With probabilities a_j and values v_j, the variance of the attention output is p / (1 - p) sum a_j^2 v_j^2."""
    model = build("Bert", attention=attention).model
    layer = model.bert.encoder.layer[0].attention.self
    torch.manual_seed(1)
    hidden = torch.randn(1, 5, 16)
    with torch.no_grad():
        heads = [module(hidden).view(5, 2, 8).transpose(0, 1) for module in (layer.query, layer.key, layer.value)]
        probabilities = (heads[0] @ heads[1].transpose(1, 2) / 8**0.5).softmax(-1)
        mean = probabilities @ heads[2]
        variance = 0.25 / 0.75 * probabilities**2 @ heads[2] ** 2
        with gaussian_dropout(model, 0.25):
            model.train()
            draws = layer(hidden.expand(20_000, -1, -1), None)[0].view(20_000, 5, 2, 8).permute(0, 2, 1, 3)
            model.eval()
    # sums of independent Gaussians: relative error of a variance sqrt(2 / n), five of them
    torch.testing.assert_close(draws.var(0), variance, rtol=5 * (2 / 20_000) ** 0.5, atol=1e-7)
    error = 5 * variance.max().sqrt().item() / 20_000**0.5
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=error)


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "float", "empty rows"])
def test_stepwise_attention_equals_the_fused_one(mask, monkeypatch):
    monkeypatch.setattr("gdrop_viz.dropout.noise.gaussian_noise", lambda probabilities, p: probabilities)
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    allowed = torch.rand(2, 1, 5, 6) > 0.3
    allowed[..., 0] = True
    if mask == "empty rows":
        allowed[:, :, 2] = False
    attn_mask = {"boolean": allowed, "empty rows": allowed, "float": torch.randn(2, 1, 5, 6)}.get(mask)
    settings = dict(is_causal=mask == "causal", scale=0.3, enable_gqa=True)
    fused = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **settings)
    stepwise = _attention(query, key, value, attn_mask, 0.5, **settings)
    torch.testing.assert_close(stepwise, fused)


def test_gradients_survive_activation_checkpointing():
    """The recomputed forward must draw the same noise; a wrapper around the whole model would miss it."""

    def gradient(checkpointing: bool) -> torch.Tensor:
        case = build("Bert")
        with gaussian_dropout(case.model, 0.3), torch.random.fork_rng(devices=[]):
            if checkpointing:
                case.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            case.model.train()
            torch.manual_seed(0)
            case.model(**case.batch).loss.backward()
        return case.model.bert.encoder.layer[0].attention.self.value.weight.grad

    torch.testing.assert_close(gradient(True), gradient(False))


def test_a_schedule_may_be_gaussian_too():
    case = build("GPT2")
    guided = guided_dropout(case.model, made_up_fisher(case.model))
    with gaussian_dropout(case.model, guided) as noise:
        assert measured_dropout(case.model) == guided.rates
        assert noise.schedule is guided
    assert set(measured_dropout(case.model).values()) == {0.1}


def test_head_keeps_its_dropout():
    model = build("Bert", head="ForSequenceClassification").model.train()
    with gaussian_dropout(model, 0.2):
        assert (model.dropout(torch.ones(1000)) == 0).any()
        assert not (model.bert.embeddings.dropout(torch.ones(1000)) == 0).any()
        assert measured_dropout(model)["dropout"] == 0.1


def test_a_copied_model_keeps_its_own_noise():
    model = build("Bert").model
    noise = gaussian_dropout(model, 0.2)
    twin = copy.deepcopy(model)
    noise.remove()
    assert measured_dropout(twin)["embeddings.dropout"] == 0.2
    assert twin.bert.embeddings.dropout.forward.__wrapped__.__self__ is twin.bert.embeddings.dropout
    assert measured_dropout(model)["embeddings.dropout"] == 0.1
    noise.remove()  # a second time does nothing
    assert measured_dropout(model)["embeddings.dropout"] == 0.1


def test_fused_attention_is_said_out_loud():
    with pytest.warns(UserWarning, match="fused attention cannot make Gaussian noise"):
        gaussian_dropout(build("Bert").model, 0.1)


def test_errors_leave_the_model_alone(monkeypatch):
    model = build("Bert").model
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"expected rate as a number at least 0 and below 1, got 1.5"):
        gaussian_dropout(model, 1.5)
    with pytest.raises(ValueError, match="expected a model with the schedule's 1 dropout sites"):
        gaussian_dropout(model, DropoutSchedule({"nowhere": 0.1}))
    with pytest.raises(ValueError, match="multi_head_attention_forward"):
        gaussian_dropout(attention, 0.1, batch={"src": torch.ones(1, 2, 4)})
    with monkeypatch.context() as patch:
        patch.setattr("gdrop_viz.dropout.noise._noise_for_dropout", lambda *args, **kwargs: args[0])
        with pytest.raises(RuntimeError, match=r"expected Gaussian noise at every site, but embeddings\.dropout"):
            gaussian_dropout(model, 0.1)
    assert differences(before, snapshot(model)) == []
    with gaussian_dropout(model, 0.1), pytest.raises(ValueError, match="got one with Gaussian noise"):
        gaussian_dropout(model, 0.1)
    assert differences(before, snapshot(model)) == []
