"""Estimators of the Fisher information: empirical, sampled, Hutchinson and exact.

Every estimator turns predictions into surrogate losses, one per sequence and draw; the score of a parameter is the sum
over draws of the squared gradients of these surrogates, averaged over sequences. With L_n the mean negative
log-likelihood (nats) over the m_n predicted tokens of sequence n and p the model's own distribution at each of them:

empirical   one draw, the labels of the data: F = 1/N Σ_n (∂L_n/∂θ)² (paper, eq. 3). It is large where the model is
            still wrong, and vanishes where the data are fitted exactly, whatever the curvature there: it misleads as a
            stand-in for curvature far from a well-fitted model (Kunstner et al., 2019).
sampled     the labels are drawn from p, independently at each token: its expectation is the Fisher information of the
            model's distribution, diag(1/m_n² Σ_t J_tᵀ (diag(p_t) - p_t p_tᵀ) J_t), with J_t the Jacobian of the logits.
hutchinson  the same expectation without labels: the logits' gradient ξ - p Σξ, with ξ = ± sqrt(p), has the covariance
            diag(p) - p pᵀ; signs are drawn per class and token (Hutchinson's trick inside the softmax).
exact       the expectation over the classes written out, Σ_c p_c (∂ log p_c/∂θ)²: one backward per class, so for
            classifiers only.

All four agree in expectation only where the model's distribution is the data's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gdrop_viz.base.checks import one_of, whole
from gdrop_viz.models.losses import Predictions

ESTIMATORS = ("empirical", "sampled", "hutchinson", "exact")
_MOST_CLASSES = 1024


def surrogate_losses(
    predictions: Predictions, estimator: str, *, draws: int, seed: int, first: int
) -> Iterator[Tensor]:
    """Yield surrogate losses (N,), one tensor per backward pass.

    Random numbers depend on `seed`, the draw and the sequence's number (`first` + row) alone, so neither the batch
    size nor the method changes them, and no global generator is touched.
    """
    if predictions.kind != "classes":
        if estimator != "empirical":
            raise ValueError(
                f"estimator={estimator!r} needs one class per label, got {predictions.kind} labels: take 'empirical'"
            )
        yield predictions.losses()
        return
    # up to a constant, which no gradient and no softmax sees
    log_p = predictions.logits.float() if predictions.logits.element_size() < 4 else predictions.logits
    if estimator == "empirical":
        yield predictions.per_sequence(_NegativeLogLikelihood.apply(log_p, predictions.labels))
        return
    if estimator == "exact":
        yield from _every_class(predictions, F.log_softmax(log_p, dim=-1))
        return
    # the mean of `draws` squared gradients is the sum of the squares of gradients scaled by 1 / sqrt(draws)
    scale = draws**-0.5
    p = log_p.detach().softmax(-1)
    for draw in range(draws):
        if estimator == "sampled":
            uniform = _per_sequence_random(predictions, (), seed, draw, first)
            cumulative = p.cumsum(-1)
            labels = torch.searchsorted(cumulative, (uniform.to(p) * cumulative[:, -1]).unsqueeze(-1)).squeeze(-1)
            labels = labels.clamp_(max=p.shape[-1] - 1)
            yield scale * predictions.relabelled(labels).losses()
        else:
            uniform = _per_sequence_random(predictions, p.shape[1:], seed, draw, first).to(p)
            root = torch.where(uniform < 0.5, p.sqrt(), -p.sqrt())
            slope = root - p * root.sum(-1, keepdim=True)
            yield scale * predictions.per_sequence((slope * log_p).sum(-1))


class _NegativeLogLikelihood(torch.autograd.Function):
    """-log p(label) of each row, as F.cross_entropy gives it, with one (rows, vocabulary) tensor instead of four.

    On small models those tensors are a tenth of the whole work. It can be differentiated once, and once only.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        at = torch.arange(len(labels), device=labels.device), labels
        losses = -log_p[at]
        ctx.slope = log_p.exp_()  # the gradient, p - onehot(label)
        ctx.slope[at] -= 1
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        slope, ctx.slope = ctx.slope, None
        return slope.mul_(grad.unsqueeze(-1)), None


def check_estimator(estimator: str, draws: int) -> None:
    """Raise ValueError on an unknown estimator or a senseless number of draws."""
    one_of(estimator, ESTIMATORS, "estimator")
    if whole(draws, "draws") > 1 and estimator in ("empirical", "exact"):
        raise ValueError(f"expected draws=1, as the {estimator} estimator draws nothing at random, got {draws}")


def _every_class(predictions: Predictions, log_p: Tensor) -> Iterator[Tensor]:
    classes = log_p.shape[-1]
    if len(predictions.offsets) - 1 != len(predictions.labels) or classes > _MOST_CLASSES:
        raise ValueError(
            f"estimator='exact' takes one backward pass per class and is for classifiers with one prediction per "
            f"sequence and at most {_MOST_CLASSES} classes; here {len(predictions.labels)} predictions for "
            f"{len(predictions.offsets) - 1} sequences, {classes} classes: take 'sampled'."
        )
    for label in range(classes):
        yield -(log_p[:, label].detach() / 2).exp() * log_p[:, label]


def _per_sequence_random(predictions: Predictions, shape: tuple[int, ...], seed: int, draw: int, first: int) -> Tensor:
    """Uniform numbers (M, *shape), each sequence's from a generator of its own."""
    parts = []
    for n, (low, high) in enumerate(zip(predictions.offsets, predictions.offsets[1:], strict=False)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + draw) * 1_000_000_007 + first + n & (2**63 - 1))
        parts.append(torch.rand((high - low, *shape), generator=generator))
    return torch.cat(parts).to(predictions.logits.device)
