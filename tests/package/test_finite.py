"""NaN and infinity in weights and losses: refused at once, the parameter, or batch and sequence, named."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.fisher.batch import Objective, Part, add_batched, add_looped
from gdrop_viz.fisher.sums import Sums
from tests.finetuning.conftest import animal_rows

PARAMETER = "bert.encoder.layer.1.output.dense.weight"
QUIET = {"progress": False}

# what needs a model (m), batches (b), a direction (d) and settings
CALLS = {
    "fisher_information": lambda m, b, d, **s: gv.fisher_information(m, b, **QUIET, **s),
    "fisher_information, loop": lambda m, b, d, **s: gv.fisher_information(m, b, method="loop", **QUIET, **s),
    "fisher_information, batched": lambda m, b, d, **s: gv.fisher_information(m, b, method="batched", **QUIET, **s),
    "loss_surface": lambda m, b, d, **s: gv.loss_surface(m, b, d, points=3, **QUIET, **s),
    "loss_surfaces": lambda m, b, d, **s: gv.loss_surfaces(m, b, {"a": d}, points=3, **QUIET, **s),
    "proposed_extent": lambda m, b, d, **s: gv.proposed_extent(m, b, d, **s),
    "gradient_direction": lambda m, b, d, **s: gv.gradient_direction(m, b, **s),
    "hessian_spectrum": lambda m, b, d, **s: gv.hessian_spectrum(m, b, 2, **QUIET, **s),
    "hessian_trace": lambda m, b, d, **s: gv.hessian_trace(m, b, 2, **QUIET, **s),
    "hessian_density": lambda m, b, d, **s: gv.hessian_density(m, b, n_probes=1, n_steps=2, **QUIET, **s),
    "sequence_curvature": lambda m, b, d, **s: gv.sequence_curvature(m, b, 1, **QUIET, **s),
}


@pytest.fixture
def direction(tiny_bert):
    return gv.random_direction(tiny_bert, seed=0)


def spoilt(model, value: float):
    with torch.no_grad():
        model.get_parameter(PARAMETER)[3, 1] = value
    return model


@pytest.fixture
def task():
    return gv.Task("animals", train=animal_rows(24, seed=0), validation=animal_rows(12, seed=1))


def spoiling(value: float):
    """Losses of which that of the marked sequence is `value`."""

    def loss(outputs, batch):
        return outputs.logits.square().mean((1, 2)) + torch.where(batch["input_ids"][:, 1] == 41, value, 0.0)

    return loss


@pytest.fixture
def marked(tiny_batches):
    """The second sequence of the second batch is marked in its text, so that it is found however batches are cut."""
    batches = [{name: value.clone() for name, value in batch.items()} for batch in tiny_batches]
    for batch in batches:
        batch["input_ids"][:, 1] = 7
    batches[1]["input_ids"][1, 1] = 41
    return batches


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", CALLS)
def test_weights(tiny_bert, tiny_batches, direction, name, value):
    with pytest.raises(ValueError, match=f"NaN or infinity in '{re.escape(PARAMETER)}'"):
        CALLS[name](spoilt(tiny_bert, value), tiny_batches, direction)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", CALLS)
def test_losses(tiny_bert, marked, direction, name, value):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (what it says is looked at below)
        CALLS[name](tiny_bert, marked, direction, loss=spoiling(value))
    said = str(error.value)
    assert re.match(f"expected finite losses, got {value} for sequence 1 of batch 1;", said), said
    assert "\n" not in said


def test_losses_of_a_part_of_a_batch(tiny_bert, marked):
    """A batch that does not fit into memory is taken in halves; its sequences keep their numbers."""
    part = Part({name: value[:3] for name, value in marked[1].items()}, row=4, where="batch 1")
    sums = Sums.of(dict(tiny_bert.named_parameters()), elements=False)
    sums.begin(7)
    for add in (add_batched, add_looped):
        with pytest.raises(ValueError, match="nan for sequence 5 of batch 1"):
            add(
                tiny_bert, dict(tiny_bert.named_parameters()), part, sums, Objective(loss=spoiling(float("nan")))
            )  # fmt: skip


def test_a_comparison_refuses_such_weights_before_it_trains(tiny_lm, task, tmp_path, monkeypatch):
    monkeypatch.setattr("gdrop_viz.finetuning.comparison.run_rows", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr("gdrop_viz.finetuning.train.run_rows", lambda *_, **__: pytest.fail("it trains"))
    lm = dataclasses.replace(tiny_lm, model=spoilt(tiny_lm.model, float("nan")))
    for call in (
        lambda: gv.compare(lm, task, {"a": 0.1}, seeds=[0], path=tmp_path / "runs", **QUIET),
        lambda: gv.fine_tune(lm, task, 0.1),
    ):
        with pytest.raises(ValueError, match=f"NaN or infinity in '{re.escape(PARAMETER)}'"):
            call()
    assert not (tmp_path / "runs").exists()


def test_a_way_to_such_weights_is_no_direction(tiny_bert, tiny_batches):
    from tests.conftest import random_bert

    end = spoilt(random_bert(1), float("inf"))
    for call in (
        lambda: gv.difference_direction(tiny_bert, end),
        lambda: gv.loss_line(tiny_bert, end, tiny_batches, 3, **QUIET),
    ):
        with pytest.raises(ValueError, match=f"finite steps, got NaN or infinity in '{re.escape(PARAMETER)}'"):
            call()


def test_far_from_the_weights_a_surface_keeps_what_comes(tiny_bert, tiny_batches):
    name = "cls.predictions.transform.dense.weight"
    huge = gv.Direction({name: torch.full_like(tiny_bert.get_parameter(name), 1e38)})
    surface = gv.loss_surface(tiny_bert, tiny_batches, huge, extent=10.0, points=3, **QUIET)
    assert np.isfinite(surface.loss).tolist() == [False, True, False]


# --- gradients that are not finite although the losses are ------------------------------------------------------------


def kinked(outputs, batch):
    """0 for every sequence, with the slope of a square root at 0."""
    return (outputs.logits * 0).square().sum((1, 2)).sqrt()


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("fisher")])
@pytest.mark.filterwarnings("ignore:42 of 42 parameter tensors go through the loop")
def test_gradients_of_the_fisher_information(tiny_bert, tiny_batches, direction, name):
    with pytest.raises(ValueError, match=r"The gradient of '.*' for sequence 0 of .*batch.* is not finite although"):
        CALLS[name](tiny_bert, tiny_batches, direction, loss=kinked)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith(("hessian", "sequence"))])
def test_second_derivatives(tiny_bert, tiny_batches, direction, name):
    with pytest.raises(ValueError, match=r"derivative .* by '.*' is not finite although the losses are"):
        CALLS[name](tiny_bert, tiny_batches, direction, loss=kinked)


def test_a_gradient_direction(tiny_bert, tiny_batches, direction):
    with pytest.raises(ValueError, match=r"finite steps, got NaN or infinity in '.*'"):
        gv.gradient_direction(tiny_bert, tiny_batches, loss=kinked)


def test_sums_say_which_gradient_it_is():
    sums = Sums.of({"a": torch.nn.Parameter(torch.ones(2)), "b": torch.nn.Parameter(torch.ones(2))}, elements=False)
    sums.begin(3)
    sums.add_gradient("b", torch.tensor([1.0, float("nan")]), 2)
    with pytest.raises(ValueError, match="gradient of 'b' for sequence 2 of batch 7"):
        sums.end("batch 7")


# --- scores that are not finite ---------------------------------------------------------------------------------------


def test_scores_by_tensor_and_by_layer(tiny_bert, tiny_batches):
    fisher = gv.fisher_information(tiny_bert, tiny_batches, resolution="tensor", **QUIET)
    fisher.means[PARAMETER] = float("nan")
    for by in ("tensor", "layer"):
        with pytest.raises(ValueError, match="finite scores"):
            gv.top_k(fisher, 2, by=by)


def test_a_saved_fisher_with_such_means_is_refused(tmp_path):
    fisher = gv.Fisher.from_means({"a.weight": 1.0})
    for value in (float("nan"), float("inf"), -1.0):
        fisher.means["a.weight"] = value
        fisher.save(tmp_path / "f.safetensors")
        with pytest.raises(ValueError, match=r"f\.safetensors' with mean scores that are not finite or negative"):
            gv.Fisher.load(tmp_path / "f.safetensors")


def test_a_model_that_cannot_tell_probabilities_writes_nothing(tiny_lm):
    lm = dataclasses.replace(tiny_lm, model=spoilt(tiny_lm.model, float("nan")))
    with pytest.raises(ValueError, match=f"NaN or infinity in '{re.escape(PARAMETER)}'"):
        gv.completions(lm, "the cat {} on the mat")
