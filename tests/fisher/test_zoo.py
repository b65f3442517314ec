"""Fisher scores of every architecture against the plain loop, which shares no code with the hooks but the model."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers

import gdrop_viz as gv
from gdrop_viz.models.losses import is_causal
from tests.zoo import EOS, ZOO, batches_of_many_shapes, build

# Mixtures of experts keep their weights in stacks that a grouped matrix product reads: those go through the loop.
LOOPED = {"Mixtral": ("experts.gate_up_proj", "experts.down_proj")}


def brute_force(model, batch):
    """F = 1/N Σ_n (∂L_n/∂θ)², written down once more: the model's own full logits, one sequence at a time."""
    parameters = dict(model.requires_grad_(True).named_parameters())
    scores = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = {name: [] for name in parameters}
    for n in range(len(batch["labels"])):
        one = {name: value[n : n + 1] for name, value in batch.items()}
        labels = one.pop("labels")
        if model.config.is_encoder_decoder:
            one["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
        logits = model(**one).logits[0]
        targets = labels[0]
        if is_causal(model):
            logits, targets = logits[:-1], targets[1:]
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
            square = torch.zeros_like(p) if gradient is None else gradient**2
            scores[name] += square / len(batch["labels"])
            norms[name].append(float(square.mean()))
    return scores, norms


def brute_force_of_all(model, batches):
    """The same over several batches: each sequence counts alike."""
    total = sum(len(batch["labels"]) for batch in batches)
    found = [(len(batch["labels"]) / total, brute_force(model, batch)[0]) for batch in batches]
    return {name: sum(share * scores[name] for share, scores in found) for name in found[0][1]}


def assert_same_scores(fisher, expected, relative):
    # a gradient that is zero in exact arithmetic (key biases: softmax ignores a constant) is rounding noise of the
    # size of the others': compare with the model's scale
    scale = max(float(score.max()) for score in expected.values())
    for name, score in expected.items():
        noise = relative * 1e-6 * scale
        difference = float((fisher.scores[name] - score).abs().max())
        assert difference <= relative * float(score.max()) + noise, name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ZOO)
def test_scores_equal_the_loop(name, attention):
    # grouped matrix products exist in single precision only
    dtype, relative = (torch.float32, 1e-4) if name == "Mixtral" else (torch.float64, 1e-6)
    case = build(name, attention=attention, dtype=dtype)
    expected, norms = brute_force(case.model, case.batch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        fisher = gv.fisher_information(case.model, [case.batch], progress=False)
    assert_same_scores(fisher, expected, relative)
    looped = fisher.looped
    assert all(parameter.endswith(LOOPED.get(name, ())) for parameter in looped), looped
    assert bool(looped) == any("go through the loop" in str(one.message) for one in said)
    for parameter, values in norms.items():
        error = torch.tensor(values).std() / len(values) ** 0.5
        scale = max(float(error), 1e-8 * float(fisher.means.max()))
        assert abs(float(fisher.standard_errors[parameter]) - float(error)) <= 100 * relative * scale, parameter


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ZOO)
def test_single_precision_without_the_self_check(name, attention):
    case = build(name, attention=attention)
    expected, _ = brute_force(case.model, case.batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fisher = gv.fisher_information(case.model, [case.batch], method="batched", progress=False)
    assert_same_scores(fisher, expected, 1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_axes_of_equal_length_are_told_apart(name):
    """As many sequences as tokens, as target tokens, as heads; one sequence first; with and without padding."""
    dtype, relative = (torch.float32, 1e-4) if name == "Mixtral" else (torch.float64, 1e-6)
    case = build(name, dtype=dtype)
    batches = batches_of_many_shapes(case)
    expected = brute_force_of_all(case.model, batches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for method in ("auto", "batched"):
            fisher = gv.fisher_information(case.model, batches, method=method, progress=False)
            assert_same_scores(fisher, expected, relative)
            assert all(parameter.endswith(LOOPED.get(name, ())) for parameter in fisher.looped), fisher.looped


@pytest.mark.parametrize("name", ZOO)
def test_tensor_resolution_agrees(name):
    case = build(name, dtype=torch.float32 if name == "Mixtral" else torch.float64)
    relative = 1e-4 if name == "Mixtral" else 1e-6  # Gemma's norms are float32 in any model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        element = gv.fisher_information(case.model, [case.batch], progress=False)
        tensor = gv.fisher_information(case.model, [case.batch], resolution="tensor", progress=False)
    assert tensor.scores is None
    noise = relative * 1e-6 * element.means.max()
    assert ((tensor.means - element.means).abs() <= relative * element.means + noise).all()
    assert (
        (tensor.standard_errors - element.standard_errors).abs() <= 10 * relative * element.standard_errors + noise
    ).all()


def with_the_other_head(name, dtype):
    """The architecture with its head untied if it usually is tied, and the other way round."""
    usual = build(name).model
    tied = usual.get_input_embeddings().weight is usual.get_output_embeddings().weight
    case = build(name, tied=not tied, dtype=dtype)
    is_tied = case.model.get_input_embeddings().weight is case.model.get_output_embeddings().weight
    return case, is_tied != tied


# MobileBERT's head is a product with the embedding beside a matrix of its own: it has no other
@pytest.mark.parametrize("name", [name for name in ZOO if name != "MobileBert"])
def test_the_other_of_tied_and_untied_heads(name):
    dtype, relative = (torch.float32, 1e-4) if name == "Mixtral" else (torch.float64, 1e-6)
    case, changed = with_the_other_head(name, dtype)
    assert changed
    expected, _ = brute_force(case.model, case.batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fisher = gv.fisher_information(case.model, [case.batch], method="batched", progress=False)
    assert_same_scores(fisher, expected, relative)


CLASSIFIERS = [name for name in ZOO if hasattr(transformers, f"{name}ForSequenceClassification")]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("estimator", ["empirical", "exact"])
def test_classification_heads(name, estimator):
    dtype, relative = (torch.float32, 1e-4) if name == "Mixtral" else (torch.float64, 1e-6)
    case = build(name, head="ForSequenceClassification", dtype=dtype, num_labels=3)
    batch = {**case.batch, "labels": torch.tensor([0, 2, 1])}
    if name in ("T5", "Bart", "MT5"):  # the classifier reads the state at the last end of sequence
        batch["input_ids"] = batch["input_ids"].clone()
        batch["input_ids"][torch.arange(3), batch["attention_mask"].sum(1) - 1] = EOS
    expected = classified_by_brute_force(case.model, batch, estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fisher = gv.fisher_information(case.model, [batch], estimator=estimator, progress=False)
    assert_same_scores(fisher, expected, relative)
    # an encoder-decoder's classifier picks its states by a mask: the four tensors behind that go through the loop
    assert all(
        parameter.endswith(LOOPED.get(name, ())) or parameter.startswith("classification_head.")
        for parameter in fisher.looped
    )


def classified_by_brute_force(model, batch, estimator):
    """1/N Σ_n Σ_c w_nc (∂ log p_nc/∂θ)², with w = 1 at the label (empirical) or w = p (exact)."""
    parameters = dict(model.requires_grad_(True).named_parameters())
    scores = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for n, label in enumerate(batch["labels"].tolist()):
        one = {name: value[n : n + 1] for name, value in batch.items() if name != "labels"}
        log_p = model(**one).logits[0].log_softmax(-1)
        for c in [label] if estimator == "empirical" else range(len(log_p)):
            weight = 1.0 if estimator == "empirical" else float(log_p[c].detach().exp())
            gradients = torch.autograd.grad(log_p[c], list(parameters.values()), allow_unused=True, retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    scores[name] += weight * gradient**2 / len(batch["labels"])
    return scores
