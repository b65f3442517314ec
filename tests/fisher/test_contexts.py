"""Sessions and models as people have them: autograd modes, wrappers, weights without gradients, losses with state."""

from __future__ import annotations

import copy
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gdrop_viz as gv
from gdrop_viz.base.digest import Undigestible


def run(model, batches, **settings):
    return gv.fisher_information(model, batches, progress=False, **settings)


def assert_equal(a, b):
    assert list(a.means.index) == list(b.means.index)
    assert np.array_equal(a.means, b.means)


# --- autograd modes ---------------------------------------------------------------------------------------------------

MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_the_session_changes_nothing(tiny_lm, tiny_batches, mode, method):
    expected = run(tiny_lm.model, tiny_batches, method=method)
    with MODES[mode]():
        found = run(tiny_lm.model, tiny_batches, method=method)
    assert_equal(found, expected)


def test_batches_made_in_inference_mode(tiny_lm, tiny_batches):
    with torch.inference_mode():
        made = [{name: value.clone() for name, value in batch.items()} for batch in tiny_batches]
    assert_equal(run(tiny_lm.model, made), run(tiny_lm.model, tiny_batches))


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"'weight' made inside torch\.inference_mode"):
        run(model, vectors(), loss=squared)


# --- models whose gradients cannot be followed ------------------------------------------------------------------------


def vectors(n=3):
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.randn(n, 5, 4, generator=generator) for name in ("input", "labels")}]


def squared(outputs, batch):
    return (outputs - batch["labels"]).square().mean((1, 2))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.reentrant = reentrant

    def forward(self, input):
        hidden = self.first(input)
        hidden = checkpoint(lambda x: self.second(x).tanh(), hidden, use_reentrant=self.reentrant)
        return self.last(hidden)


@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
def test_reentrant_checkpointing_is_refused_in_one_line(method):
    with pytest.raises(ValueError, match="Checkpointed runs reentrant gradient checkpointing; switch it off"):
        run(Checkpointed(reentrant=True), vectors(), loss=squared, method=method)


@pytest.mark.parametrize("method", ["auto", "batched"])
def test_other_checkpointing_is_exact(method):
    model = Checkpointed(reentrant=False)
    found, expected = (
        run(model, vectors(), loss=squared, method=method),
        run(model, vectors(), loss=squared, method="loop"),
    )
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-4)


class WithoutGradients(nn.Linear):
    def forward(self, input):
        with torch.no_grad():
            return super().forward(input)


@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
@pytest.mark.parametrize(
    ("model", "loss"),
    [(WithoutGradients(4, 4), squared), (nn.Linear(4, 4), lambda outputs, batch: squared(outputs.detach(), batch))],
)
def test_losses_without_gradients_are_refused(model, loss, method):
    with pytest.raises(ValueError, match=r"expected losses that depend on the weights of .*torch\.no_grad"):
        run(model, vectors(), loss=loss, method=method)


class AlwaysDropping(nn.Linear):
    def forward(self, input):
        return F.dropout(super().forward(input), 0.5)


class Noisy(nn.Linear):
    def forward(self, input):
        return super().forward(input) + 0.1 * torch.randn_like(input)


@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
@pytest.mark.parametrize("kind", [AlwaysDropping, Noisy])
def test_random_numbers_in_eval_mode_are_refused(kind, method):
    with pytest.raises(ValueError, match="gives other values each time; switch its noise off in eval mode"):
        run(kind(4, 4), vectors(), loss=squared, method=method)


# --- wrappers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "data parallel"])
def test_a_wrapped_model_has_the_names_and_scores_of_the_model(tiny_lm, tiny_batches, wrap):
    expected = run(tiny_lm.model, tiny_batches)
    wrapped = wrap(tiny_lm.model)
    found = run(wrapped, tiny_batches)
    assert_equal(found, expected)
    found.check_model(wrapped)
    found.check_model(tiny_lm.model)


def test_a_compiled_layer_has_the_names_and_scores_of_the_layer(tiny_lm, tiny_batches):
    expected = run(tiny_lm.model, tiny_batches)
    model = copy.deepcopy(tiny_lm.model)
    layers = model.bert.encoder.layer
    layers[0] = torch.compile(layers[0])
    layers[1].compile()
    found = run(model, tiny_batches)
    assert_equal(found, expected)
    found.check_model(tiny_lm.model)


# --- weights without gradients ----------------------------------------------------------------------------------------


class Quantised(nn.Module):
    """A matrix of 8-bit numbers and its scale, beside an ordinary layer."""

    def __init__(self, dtype):
        super().__init__()
        weight = torch.arange(16.0).reshape(4, 4) / 8
        self.matrix = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.scale, self.layer = nn.Parameter(torch.tensor(0.1)), nn.Linear(4, 4)

    def forward(self, input):
        return self.layer(F.linear(input, self.matrix.float()) * self.scale)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_weights_without_gradients_are_left_out_by_name_and_count_nowhere(dtype, tmp_path):
    model = Quantised(dtype)
    with pytest.warns(RuntimeWarning, match=r"1 of 4 parameter tensors .* left out .matrix"):
        fisher = run(model, vectors(), loss=squared)
    assert fisher.left_out == ["matrix"]
    assert set(fisher.scores) == {"scale", "layer.weight", "layer.bias"}
    assert len(gv.Fisher.concentration(fisher)) > 1
    assert fisher.located(1.0)["elements"].sum() == gv.top_k(fisher, 1.0).n_elements == 1 + 16 + 4
    fisher.save(tmp_path / "f.safetensors")
    assert gv.Fisher.load(tmp_path / "f.safetensors", model=model).left_out == ["matrix"]
    with pytest.raises(ValueError, match=r"expected weights that have gradients, got .* for matrix"):
        run(model, vectors(), loss=squared, parameters=["matrix"])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bit_floats_are_refused(dtype):
    with pytest.raises(ValueError, match="expected weights of at least 16 bits, got 'matrix'"):
        run(Quantised(dtype), vectors(), loss=squared)


def test_weights_that_are_not_in_memory_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
    with pytest.raises(ValueError, match=r"'1\.weight' is not in memory"):
        run(model, vectors(), loss=squared, parameters=["0.weight"])


# --- checkpoints ------------------------------------------------------------------------------------------------------


def weighted(scale):
    def loss(outputs, batch):
        return scale * squared(outputs, batch)

    return loss


def base():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
    state = {
        name: torch.linspace(-1, 1, value.numel()).reshape(value.shape) for name, value in model.named_parameters()
    }
    model.load_state_dict(state)
    return {"model": model, "batches": vectors(), "loss": weighted(1.0)}


def other_activation(settings):
    settings["model"][1] = nn.ReLU()


def moved_weight(settings):
    with torch.no_grad():
        settings["model"][0].bias[0] += 1e-6


def other_setting(settings):
    settings["model"][1].approximate = "tanh"


# what determines the scores: a checkpoint belongs to all of it
INGREDIENTS = {
    "a weight": moved_weight,
    "a module's class": other_activation,
    "a module's setting": other_setting,
    "the text": lambda settings: settings["batches"][0]["input"][0, 0, 0].add_(1e-3),
    "the labels": lambda settings: settings["batches"][0]["labels"][0, 0, 0].add_(1e-3),
    "the batching": lambda settings: settings.update(batches=settings["batches"] * 2),
    "the closure of the loss": lambda settings: settings.update(loss=weighted(2.0)),
    "the code of the loss": lambda settings: settings.update(loss=lambda outputs, batch: squared(outputs, batch)),
    "the resolution": lambda settings: settings.update(resolution="tensor"),
    "the method": lambda settings: settings.update(method="loop"),
    "the parameters": lambda settings: settings.update(parameters=["0.weight"]),
    "the seed": lambda settings: settings.update(seed=1),
}


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_a_checkpoint_belongs_to_all_that_determines_the_scores(tmp_path, ingredient):
    path = tmp_path / "c.safetensors"
    run(**base(), checkpoint=path)
    again = run(**base(), checkpoint=path)  # the same things made anew are the same
    assert_equal(again, run(**base()))
    changed = base()
    INGREDIENTS[ingredient](changed)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        run(**changed, checkpoint=path)


def test_a_loss_that_cannot_be_read_needs_a_version(tmp_path):
    path, lock = tmp_path / "c.safetensors", threading.Lock()

    def guarded(outputs, batch):
        with lock:
            return squared(outputs, batch)

    settings = {**base(), "loss": guarded, "checkpoint": path}
    with pytest.raises(Undigestible, match="name it by version="):
        run(**settings)
    run(**settings, version="1")
    run(**settings, version="1")
    with pytest.raises(ValueError, match="checkpoint of another run"):
        run(**settings, version="2")


# --- estimators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["sampled", "hutchinson", "exact"])
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_estimators_that_need_classes_refuse_other_labels(estimator, problem):
    from transformers import BertConfig, BertForSequenceClassification

    size = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    labels = 1 if problem == "regression" else 3
    model = BertForSequenceClassification(BertConfig(**size, num_labels=labels, problem_type=problem)).eval()
    batch = {"input_ids": torch.arange(3, 15).reshape(3, 4), "labels": torch.ones(3, labels).squeeze(-1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(model, [batch]).means.sum() > 0
        with pytest.raises(ValueError, match="needs one class per label"):
            run(model, [batch], estimator=estimator)


class InTrainingOnly(torch.autograd.Function):
    """A function whose backward needs the training mode, as Reformer's reversible layers."""

    @staticmethod
    def forward(ctx, x, training):
        ctx.training = training
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        assert ctx.training, "put the model into training mode"
        return grad * 2, None


class Reversible(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, input):
        return InTrainingOnly.apply(self.layer(input), self.training)


@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
def test_a_backward_that_eval_mode_does_not_have_is_refused(method):
    model, batch = Reversible(), {"input": torch.randn(3, 4)}
    settings = {"loss": lambda outputs, batch: outputs.square().sum(1), "progress": False}
    with pytest.raises(ValueError, match=r"expected a backward pass through Reversible in eval mode, but .* training"):
        gv.fisher_information(model, [batch], method=method, **settings)
    with pytest.raises(ValueError, match="expected losses that can be differentiated, got from autograd: put the"):
        gv.hessian_trace(model, [batch], n_probes=2, **settings)
