"""Models that accelerate has spread over devices, and models in half precision, against plain ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import gdrop_viz as gv
from tests.zoo import build

NAMES = ["Bert", "GPT2", "Llama", "T5"]


def dispatched(model):
    """Each child a device of its own, as accelerate sees it: hooks bring its inputs and take its outputs back."""
    from accelerate import dispatch_model

    places = {name: "cpu" for name, _ in model.named_children()}
    return dispatch_model(copy.deepcopy(model), device_map=places, main_device="cpu", force_hooks=True)


@pytest.mark.parametrize("name", NAMES)
def test_fisher_information_and_surfaces_of_a_dispatched_model(name):
    case = build(name)
    spread = dispatched(case.model)
    assert sum(hasattr(module, "_hf_hook") for module in spread.modules()) > 2
    for resolution in ("element", "tensor"):
        plain = gv.fisher_information(case.model, [case.batch], resolution=resolution, progress=False)
        there = gv.fisher_information(spread, [case.batch], resolution=resolution, progress=False)
        assert there.means.equals(plain.means)
        assert not there.looped
    direction = gv.random_direction(case.model)
    plain, there = (
        gv.loss_surface(model, [case.batch], direction, points=3, progress=False) for model in (case.model, spread)
    )
    assert (there.sequence_losses == plain.sequence_losses).all()


def test_a_device_map_when_loading(tiny_lm, tmp_path):
    folder = tiny_lm.save(tmp_path)
    lm = gv.load_pretrained(folder, device_map={"": "cpu"})
    assert all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), tiny_lm.model.parameters(), strict=True))
    with pytest.raises(ValueError, match="not both"):
        gv.load_pretrained(folder, device="cpu", device_map="auto")


def test_offloaded_weights_are_refused_in_one_line(tiny_bert, tiny_batches):
    from accelerate import cpu_offload

    plane = gv.random_direction(tiny_bert)
    away = cpu_offload(copy.deepcopy(tiny_bert), execution_device="cpu")
    for call in (
        lambda: gv.fisher_information(away, tiny_batches, progress=False),
        lambda: gv.loss_surface(away, tiny_batches, plane, progress=False),
    ):
        with pytest.raises(ValueError, match=r"is not in memory .* device_map='auto'"):
            call()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resolution", ["element", "tensor"])
def test_bfloat16_weights_with_float32_sums(name, resolution):
    """A bfloat16 number has 8 bits, a relative rounding of 2^-9 = 0.002; forward and backward pass chain some tens of
    roundings, and squares double them: so 5 % of a tensor's score, and 2 % of the whole. Tensors whose gradient is
    rounding noise (key biases) are below a millionth of the largest score."""
    case = build(name)
    full = gv.fisher_information(case.model, [case.batch] * 3, resolution=resolution, progress=False)
    half = copy.deepcopy(case.model).to(torch.bfloat16)
    found = gv.fisher_information(half, [case.batch] * 3, resolution=resolution, progress=False)
    assert all(score.dtype == torch.float32 for score in (found.scores or {}).values())
    large = full.means > 1e-6 * full.means.max()
    ratio = found.means[large] / full.means[large]
    # T5 scales no attention and normalises without a mean: its scores are steeper in the weights
    assert (ratio - 1).abs().max() < (0.1 if name == "T5" else 0.05)
    total = [(result.means * result.to_frame()["elements"]).sum() for result in (found, full)]
    assert total[0] == pytest.approx(total[1], rel=0.02)


def test_bfloat16_sums_do_not_stall(tiny_bert, tiny_batches):
    """In bfloat16 a sum stops growing after 256 equal terms; the sums are float32, and 300 of them come out."""
    model = copy.deepcopy(tiny_bert).to(torch.bfloat16)
    one = {name: value[:1] for name, value in tiny_batches[0].items()}
    once, often = (gv.fisher_information(model, [one] * count, method="batched", progress=False) for count in (1, 300))
    for name, score in once.scores.items():
        np.testing.assert_allclose(often.scores[name], score, rtol=1e-4, atol=1e-12)


def test_a_surface_in_bfloat16_moves_in_float32(tiny_bert, tiny_batches):
    model = copy.deepcopy(tiny_bert).to(torch.bfloat16)
    direction = gv.random_direction(tiny_bert, norm=1.0)
    plain, half = (gv.loss_surface(m, tiny_batches, direction, points=3, progress=False) for m in (tiny_bert, model))
    # losses near 3.6 nats from bfloat16 logits of size 1: 2^-9 of them, averaged over the predicted tokens
    np.testing.assert_allclose(half.loss, plain.loss, atol=0.02)
