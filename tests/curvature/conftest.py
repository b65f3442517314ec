"""A small BERT in float64 with its dense Hessian, found without double backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdrop_viz.models.losses import sequence_losses
from tests.conftest import random_bert


def dense_by_differences(model, batches, mask=None) -> np.ndarray:
    """The Hessian as central differences of first-order gradients: no second derivative is taken anywhere."""
    parameters = list(model.parameters())
    weights = torch.nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(vector):
        torch.nn.utils.vector_to_parameters(vector, parameters)
        losses = torch.cat([sequence_losses(model, batch) for batch in batches])
        parts = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, parts, strict=True)]
        )

    step, columns = 1e-5, []
    chosen = np.arange(len(weights)) if mask is None else np.flatnonzero(mask)
    for i in chosen:
        shift = torch.zeros_like(weights)
        shift[i] = step
        columns.append(((gradient(weights + shift) - gradient(weights - shift)) / (2 * step))[chosen])
    torch.nn.utils.vector_to_parameters(weights, parameters)
    return torch.stack(columns, dim=1).numpy()


@pytest.fixture(scope="package")
def small():
    """A BERT of a few hundred parameters in float64, two ragged batches, and its dense Hessian."""
    model = random_bert(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, intermediate_size=5, max_position_embeddings=6
    ).double()
    with torch.no_grad():  # far from a flat start, so that the eigenvalues are apart
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())), alpha=0.5
            )
    generator = torch.Generator().manual_seed(0)
    batches = []
    for n in (3, 2):
        ids = torch.randint(1, 9, (n, 6), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 4:] = 0
        labels = ids.masked_fill((torch.rand(ids.shape, generator=generator) > 0.4) | (mask == 0), -100)
        labels[:, 1] = ids[:, 1]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return model, batches, dense_by_differences(model, batches)


def chosen_of(model, selection) -> np.ndarray:
    return np.concatenate([selection.mask(name).reshape(-1).numpy() for name, _ in model.named_parameters()])
