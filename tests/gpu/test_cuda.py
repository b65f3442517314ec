"""Correctness on CUDA: Fisher, memory, restoration, surfaces, placement, checkpointing, compiled models."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gdrop_viz as gv
from tests.conftest import random_bert

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.fixture
def model() -> nn.Module:
    return random_bert(0).cuda()


@pytest.fixture
def batches(model: nn.Module) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        ids = torch.randint(5, model.config.vocab_size, (4, 9), generator=generator)
        labels = torch.where(torch.rand(4, 9, generator=generator) < 0.4, ids, -100)
        labels[:, 1] = ids[:, 1]
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return found


def by_hand(model: nn.Module, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Brute force: each sequence alone, the model's own loss, its gradient squared."""
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    n = 0
    for batch in batches:
        for row in range(len(batch["labels"])):
            model.zero_grad(set_to_none=True)
            model.eval()(**{name: value[row : row + 1].cuda() for name, value in batch.items()}).loss.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.double().square()
            n += 1
    model.zero_grad(set_to_none=True)
    return {name: total / n for name, total in sums.items()}


# rounding of sums in another order; bfloat16 keeps 8 bits, and squares double the relative error
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_fisher_is_that_of_the_loop(model, batches, dtype, tolerance):
    model = model.to(dtype)
    fisher = gv.fisher_information(model, batches, progress=False)
    for name, expected in by_hand(model, batches).items():
        difference = (fisher.scores[name].double().cpu() - expected.cpu()).abs().sum()
        assert difference <= tolerance * expected.sum().cpu() + 1e-12, name


def test_a_batch_that_does_not_fit_is_halved(model):
    """The card is filled until a batch of 256 fails with the real error; half of it fits."""
    ids = torch.randint(5, model.config.vocab_size, (256, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    expected = gv.fisher_information(model, [batch], method="batched", progress=False)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    gv.fisher_information(model, [batch], method="batched", progress=False)
    need = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    share = (torch.cuda.memory_reserved() + 0.75 * need) / total
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        found = gv.fisher_information(model, [batch], method="batched", progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-3)


def test_generators_and_switches_are_the_callers_afterwards(model, batches):
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    before = torch.cuda.get_rng_state(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    gv.fisher_information(model, batches, estimator="sampled", progress=False)
    gv.loss_surface(model, batches, [gv.random_direction(model, seed=0)], points=3, progress=False)
    gv.guided_dropout(model, gv.fisher_information(model, batches, progress=False)).apply(model)
    after = torch.cuda.get_rng_state(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_weights_come_back_bit_for_bit(model, batches):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plane = [gv.random_direction(model, seed=seed) for seed in (0, 1)]
    surface = gv.loss_surface(model, batches, plane, points=3, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        losses = torch.cat([gv.sequence_losses(model.eval(), batch) for batch in batches])
    assert surface.loss[1, 1] == pytest.approx(losses.double().mean().item(), rel=1e-6)


def test_models_placed_by_accelerate(batches, tmp_path):
    from transformers import AutoModelForMaskedLM

    random_bert(0).save_pretrained(tmp_path)
    placed = AutoModelForMaskedLM.from_pretrained(tmp_path, device_map="auto")
    expected = gv.fisher_information(random_bert(0), batches, progress=False)
    found = gv.fisher_information(placed, batches, progress=False)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-3)


def test_gradient_checkpointing_changes_nothing(model, batches):
    expected = gv.fisher_information(model, batches, progress=False)
    model.gradient_checkpointing_enable()
    found = gv.fisher_information(model, batches, progress=False)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-3)


def test_compiled_models(model, batches):
    expected = gv.fisher_information(model, batches, progress=False)
    found = gv.fisher_information(torch.compile(model), batches, progress=False)
    assert list(found.means.index) == list(expected.means.index)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-3)


def test_curvature(model, batches):
    on_cpu = gv.hessian_trace(random_bert(0), batches, n_probes=2, progress=False)
    on_gpu = gv.hessian_trace(model, batches, n_probes=2, progress=False)
    np.testing.assert_allclose(on_gpu.samples.sum(1), on_cpu.samples.sum(1), rtol=1e-2)
