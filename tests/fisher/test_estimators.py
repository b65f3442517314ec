"""The estimators against closed forms: the expectation over labels written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import gdrop_viz as gv
from tests.conftest import random_bert


def expected_information(model, batch):
    """Σ_y p(y) (∂ log p(y) / m)² summed over predicted tokens: what sampling estimates, by autograd."""
    names = [name for name, _ in model.named_parameters()]
    tensors = list(model.parameters())
    total = {name: torch.zeros_like(tensor) for name, tensor in zip(names, tensors, strict=True)}
    n = len(batch["labels"])
    for row in range(n):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        labels = one.pop("labels")[0]
        at = (labels != -100).nonzero().flatten()
        log_p = F.log_softmax(model(**one).logits[0, at], dim=-1)
        for token in range(len(at)):
            for label in range(log_p.shape[1]):
                gradients = torch.autograd.grad(
                    log_p[token, label] / len(at), tensors, retain_graph=True, allow_unused=True
                )
                for name, gradient in zip(names, gradients, strict=True):
                    if gradient is not None:
                        total[name] += log_p[token, label].exp().detach() * gradient**2 / n
    return total


@pytest.fixture
def case():
    model = random_bert(num_hidden_layers=1, hidden_size=8, intermediate_size=8, vocab_size=12).double()
    batch = {
        "input_ids": torch.tensor([[5, 6, 4, 7], [8, 4, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([[-100, 6, 8, -100], [-100, 7, -100, -100]]),
    }
    return model, batch


@pytest.mark.parametrize("estimator", ["sampled", "hutchinson"])
def test_the_mean_over_draws_is_the_models_own_information(case, estimator):
    model, batch = case
    expected = expected_information(model, batch)
    # every sequence has random numbers of its own, so copies of two sequences are draws, many in one pass
    copies = {name: value.repeat(500, 1) for name, value in batch.items()}
    fisher = gv.fisher_information(
        model, [copies], estimator=estimator, draws=3, method="batched", resolution="tensor", progress=False
    )
    for name, value in expected.items():
        if float(value.max()) < 1e-12 * max(float(v.max()) for v in expected.values()):
            continue
        # 1500 draws of a quantity whose spread is of its own size: three standard errors are 8 %
        assert fisher.means[name] == pytest.approx(float(value.mean()), rel=0.12), name


def test_exact_is_the_expectation_over_classes():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20)
    model = BertForSequenceClassification(BertConfig(num_labels=3, **size)).double().eval()
    batch = {"input_ids": torch.randint(1, 20, (3, 5)), "labels": torch.tensor([0, 1, 2])}
    fisher = gv.fisher_information(model, [batch], estimator="exact", progress=False)
    name, tensor = "classifier.weight", model.classifier.weight
    expected = torch.zeros_like(tensor)
    for row in range(3):
        log_p = F.log_softmax(model(input_ids=batch["input_ids"][row : row + 1]).logits[0], dim=-1)
        for label in range(3):
            (gradient,) = torch.autograd.grad(log_p[label], tensor, retain_graph=True)
            expected += log_p[label].exp().detach() * gradient**2 / 3
    torch.testing.assert_close(fisher.scores[name], expected)
    loop = gv.fisher_information(model, [batch], estimator="exact", method="loop", progress=False)
    torch.testing.assert_close(fisher.scores[name], loop.scores[name])


@pytest.mark.parametrize("estimator", ["sampled", "hutchinson"])
def test_draws_depend_on_the_seed_alone(case, estimator):
    model, batch = case

    def means(batches, **settings):
        return gv.fisher_information(
            model, batches, estimator=estimator, draws=2, progress=False, resolution="tensor", **settings
        ).means

    singles = [{name: value[n : n + 1] for name, value in batch.items()} for n in range(2)]
    torch.manual_seed(5)
    reference = means([batch])
    torch.manual_seed(6)
    for other in (means([batch]), means(singles), means([batch], method="loop")):
        assert ((other - reference).abs() <= 1e-9 * reference.max()).all()
    assert not ((means([batch], seed=1) - reference).abs() <= 1e-3 * reference.max()).all()
