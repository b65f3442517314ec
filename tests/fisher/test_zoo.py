"""Fisher scores of every architecture against the plain loop, which shares no code with the hooks but the model."""

from __future__ import annotations

import warnings

import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.objectives import is_causal
from tests.zoo import ZOO, build

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
    looped = fisher.metadata["through the loop"]
    assert all(parameter.endswith(LOOPED.get(name, ())) for parameter in looped), looped
    assert bool(looped) == any("go through the loop" in str(one.message) for one in said)
    for parameter, values in norms.items():
        error = torch.tensor(values).std() / len(values) ** 0.5
        scale = max(float(error), 1e-8 * float(fisher.means.max()))
        assert abs(float(fisher.standard_errors[parameter]) - float(error)) <= 100 * relative * scale, parameter


@pytest.mark.parametrize("name", ZOO)
def test_single_precision_without_the_self_check(name):
    case = build(name)
    expected, _ = brute_force(case.model, case.batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fisher = gv.fisher_information(case.model, [case.batch], method="hooks", progress=False)
    assert_same_scores(fisher, expected, 1e-4)


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


@pytest.mark.parametrize("name", ["Bert", "GPT2", "T5", "Bart", "Llama", "Gemma"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(name, tied):
    case = build(name, tied=tied, dtype=torch.float64)
    expected, _ = brute_force(case.model, case.batch)
    fisher = gv.fisher_information(case.model, [case.batch], method="hooks", progress=False)
    assert_same_scores(fisher, expected, 1e-6)
