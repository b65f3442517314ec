"""Loss of a head with one answer per sequence: cross-entropy, binary cross-entropy or squared error."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from gdrop_viz.models.backbone import unwrapped

Kind = Literal["classes", "multi-label", "regression"]
_PROBLEMS: dict[str, Kind] = {
    "single_label_classification": "classes",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}


def kind_of(model: nn.Module, logits: Tensor, labels: Tensor) -> Kind:
    """Return which loss the labels (N,) or (N, C) ask of logits (N, C), as `transformers` decides it.

    The configuration's `problem_type` counts where it is set. Else one output is a regression, integer labels are
    classes, and floating-point labels are those of independent classes.

    Raises
    ------
    ValueError
        If labels of this type or shape have no such loss.
    """
    config: Any = getattr(unwrapped(model), "config", None)
    problem, n_labels = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    width = logits.shape[-1]
    inferred: Kind = "multi-label" if labels.is_floating_point() else "classes"
    kind = _PROBLEMS.get(str(problem), "regression" if width == 1 else inferred)
    per_sequence = labels.shape in ((len(logits),), (len(logits), 1))
    if kind == "classes":
        fits, expected = per_sequence and not labels.is_floating_point(), f"integers of shape ({len(logits)},)"
    elif kind == "regression" and width == 1:
        fits, expected = per_sequence, f"numbers of shape ({len(logits)},)"
    else:
        # a head that scores every token (ELECTRA's discriminator) has as many scores as tokens, not as classes
        fits = labels.shape == logits.shape and (kind == "regression" or n_labels in (None, width))
        expected = f"numbers of shape ({len(logits)}, {n_labels or width}), one per class"
    if logits.dim() != 2 or not fits:
        came = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise ValueError(
            f"expected labels as {expected}, for {type(unwrapped(model)).__name__} with logits of shape "
            f"{tuple(logits.shape)}, got {came}; change them, or pass loss="
        )
    return kind


def row_losses(kind: Kind, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each row, (M,), of logits (M, C): nats, or squared units of the labels for a regression."""
    # half precision loses the log-likelihood's small differences: the softmax is always at least float32
    logits = logits.float() if logits.element_size() < 4 else logits
    if kind == "classes":
        return F.cross_entropy(logits, labels, reduction="none")
    if kind == "regression":
        return (logits - labels.reshape(logits.shape)).square().mean(-1)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)
