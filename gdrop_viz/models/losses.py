"""Loss of each sequence: model + batch -> logits at the predicted tokens -> one loss per sequence.

The unit of every quantity in this package is one sequence: L_n = mean negative log-likelihood (nats) over the
predicted tokens of sequence n (paper, eq. 3 and section 3). The end of a model works position by position, so it is fed
the positions that are read only: the same numbers for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdrop_viz.base.checks import module, one_of
from gdrop_viz.base.locks import model_lock
from gdrop_viz.models.backbone import undistributed, unwrapped
from gdrop_viz.models.batches import IGNORED, as_batches, check_batch, check_predicts
from gdrop_viz.models.determinism import check_determinism
from gdrop_viz.models.devices import check_attention, check_weights_present, device_of, on_device_of
from gdrop_viz.models.facts import facts_of
from gdrop_viz.models.heads import Kind, kind_of, row_losses
from gdrop_viz.models.independence import mixes_sequences, padding_rule
from gdrop_viz.models.inputs import (
    accepted,
    decoder_inputs,
    is_encoder_decoder,
    logits_of,
    padding_sides,
    positions_from,
)
from gdrop_viz.models.objectives import OBJECTIVES
from gdrop_viz.models.own_loss import (
    LabelRule,
    at_tokens,
    check_answers,
    check_label_shape,
    comparable,
    label_rule,
    readable,
    state_objective,
)
from gdrop_viz.models.position_wise import forget_end, only_at, only_first
from gdrop_viz.models.trials import other_words, trying

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Predictions:
    """The model's logits where it is asked for a prediction.

    Attributes
    ----------
    logits
        (M, C), one row per predicted token (or per sequence for a classifier), ordered by sequence.
    labels
        (M,) integer classes; numbers, (M,) or (M, C), for a regression or for independent classes.
    offsets
        (N + 1,): rows of sequence n are offsets[n] .. offsets[n + 1] - 1.
    kind
        "classes" (negative log-likelihood), "multi-label" (binary cross-entropy) or "regression" (squared error).
    """

    logits: Tensor
    labels: Tensor
    offsets: tuple[int, ...]
    kind: Kind = "classes"

    @property
    def counts(self) -> Tensor:
        """Predicted tokens of each sequence, (N,), on the logits' device."""
        return torch.tensor(self.offsets, device=self.logits.device).diff()

    def relabelled(self, labels: Tensor) -> Predictions:
        """The same predictions held against other labels."""
        return replace(self, labels=labels)

    def per_sequence(self, values: Tensor) -> Tensor:
        """Mean of `values` (M,) over each sequence's rows, (N,)."""
        counts = self.counts
        rows = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts)
        return values.new_zeros(len(counts)).index_add(0, rows, values) / counts

    def losses(self) -> Tensor:
        """Loss of each sequence, (N,): mean over its rows, in nats or squared units of the labels. Differentiable."""
        return self.per_sequence(row_losses(self.kind, self.logits, self.labels))


def sequence_losses(model: nn.Module, batch: Mapping[str, Tensor], *, loss: Loss | None = None) -> Tensor:
    """Return L_n, the loss of each sequence of `batch`: shape (N,), differentiable; its unit: see `loss_unit`.

    Parameters
    ----------
    model
        A Hugging Face masked, causal or encoder-decoder language model or classifier, in the mode it is in (put it in
        eval mode for the pretraining loss); with `loss=` any module.
    batch
        The model's inputs and "labels": (N, T) with -100 where nothing is predicted, (N,) for a classifier or a
        regression, (N, C) for independent classes. It is moved to the model's device. Labels of a model that looks back
        only are shifted here, as in `transformers`; a sequence's loss does not depend on its padding.
    loss
        callable(outputs, batch) -> (N,) for models whose objective is another; it gets `model(**inputs)` with "labels"
        left out.

    Raises
    ------
    ValueError
        If labels are missing, a sequence predicts nothing, the model's own loss is another, or `loss` returns another
        shape.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> model = BertForMaskedLM(config).eval()
    >>> ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    >>> labels = torch.tensor([[-100, 4, -100], [6, -100, 8]])
    >>> sequence_losses(model, {"input_ids": ids, "labels": labels}).shape
    torch.Size([2])
    """
    model, batch = undistributed(model), on_device_of(model, batch)
    if loss is None:
        return predictions(model, batch).losses()
    losses = loss(model(**accepted(model, batch)), batch)
    n = len(next(iter(batch.values())))
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        came = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"loss= must return one loss per sequence, a tensor of shape ({n},); it returned {came}.")
    return losses


def loss_unit(batch: Mapping[str, Tensor], *, loss: Loss | None = None, model: nn.Module | None = None) -> str:
    """Return the unit of `sequence_losses`: "" where a `loss` of one's own makes it.

    With `model`, numbers as labels of independent classes are told from those of a regression.

    >>> loss_unit({"labels": torch.tensor([[-100, 7]])}), loss_unit({"labels": torch.tensor([1, 0])})
    ('nats per predicted token', 'nats')
    >>> loss_unit({"labels": torch.tensor([0.5, 2.0])})
    'squared label units'
    """
    labels = batch.get("labels")
    if loss is not None or labels is None:
        return ""
    config = getattr(unwrapped(model), "config", None) if model is not None else None
    problem, width = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    if problem == "regression" or (problem is None and labels.dim() == 1 and width == 1):
        return "squared label units"
    if labels.is_floating_point():
        independent = problem is not None or (labels.dim() == 2 and labels.shape[1] == width and width > 1)
        return "nats" if independent else "squared label units"
    return "nats" if labels.dim() == 1 else "nats per predicted token"


def predictions(model: nn.Module, batch: Mapping[str, Tensor]) -> Predictions:
    """Run `model` on `batch` and return its logits and labels at the predicted positions only."""
    model = undistributed(model)
    labels = batch.get("labels")
    if labels is None:
        raise ValueError('The batch has no "labels"; give them (-100 where nothing is predicted) or pass loss=.')
    rule = label_rule(model, batch)
    inputs = accepted(model, batch)
    if _needs_positions(model, batch):
        inputs["position_ids"] = positions_from(inputs["attention_mask"])
    if rule.per_sequence:
        with only_first(model, inputs, logits=logits_of):
            logits = logits_of(model(**inputs))
        kind = kind_of(model, logits, labels)
        return Predictions(logits, comparable(kind, logits, labels), tuple(range(len(labels) + 1)), kind)
    check_label_shape(model, batch)
    if is_encoder_decoder(model) and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = decoder_inputs(model, labels)
    targets = _targets(rule, labels, batch.get("attention_mask"))
    predicted = targets != IGNORED
    offsets = _offsets(predicted)
    # a causal model or a decoder predicts nearly every position: only its head is worth looking at
    inside = not (rule.shifted or is_encoder_decoder(model))
    with only_at(model, inputs, predicted, offsets, logits=logits_of, inside=inside) as gathered:
        logits = logits_of(model(**inputs))
    if gathered and logits.shape[:-1] != (1, offsets[-1]):  # on this batch the end is not position-wise after all
        forget_end(model)
        logits, gathered = logits_of(model(**inputs)), False
    # squeezed, not indexed: the backward of an index fills and copies a whole tensor of logits
    rows = logits.squeeze(0) if gathered else at_tokens(logits, labels.shape, type(model).__name__)[predicted]
    return Predictions(rows, targets[predicted].long(), offsets)


def _targets(rule: LabelRule, labels: Tensor, mask: Any) -> Tensor:
    """The label that each position predicts (N, T), -100 where none."""
    if not rule.shifted:
        return labels
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        # the first word after padding on the left: nothing comes before it to predict it from
        targets = targets.masked_fill((mask == 0) & (F.pad(mask[:, 1:], (0, 1)) != 0), IGNORED)
    return targets


def checked_batches(
    model: Any, batches: Any, *, loss: Loss | None = None, objective: str | None = None
) -> Sequence[Mapping[str, Any]]:
    """Return `batches` as every computation here may use them, or raise, in one line, what is wrong with them.

    Call it once, before any work. Arrays and lists become tensors, one batch alone a list of it, and where a model
    needs them to be independent of padding, position ids are added; batches that are right already come back as the
    same object. Once per model (again after its modules changed) the mean of our losses on a trial is compared with the
    model's own loss, and the first batch's losses are computed twice.

    Parameters
    ----------
    model
        The model, or a `Pretrained`. The objective of the last `Pretrained` that was made of a model counts.
    batches
        Batches, one batch, or a DataLoader.
    loss
        As for `sequence_losses`; labels are then the caller's matter.
    objective
        "mlm", "clm" or "span", for a model of which no `Pretrained` was made.

    Raises
    ------
    TypeError, ValueError
        If the batches are no batches, do not fit the model, or the model's losses would mean something else than they
        say: it draws random numbers in eval mode, has another loss of its own, or reads the tokens it is to predict.
    """
    model = undistributed(module(model))
    check_weights_present(model)
    check_attention(model)
    if objective is not None:
        state_objective(model, one_of(objective, OBJECTIVES, "objective"))
    found = as_batches(batches)
    with model_lock(model):
        for number, batch in enumerate(found):
            check_batch(model, batch, loss=loss, where=f"batch {number}")
        facts, once = facts_of(model), "losses" if loss is None else "losses by loss="
        if once not in facts:
            _check_first_losses(model, on_device_of(model, found[0]), loss)
            facts[once] = True
        if loss is None:
            found = _independent_of_padding(model, found)
            if any(len(batch["labels"]) > 1 for batch in found):
                mixes_sequences(model, on_device_of(model, found[0]))
    return found


def _independent_of_padding(model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    needing = [number for number, batch in enumerate(batches) if _needs_positions(model, on_device_of(model, batch))]
    if not needing:
        return batches
    return [
        {**batch, "position_ids": positions_from(batch["attention_mask"])} if number in needing else batch
        for number, batch in enumerate(batches)
    ]


def _needs_positions(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    needed = [padding_rule(model, batch, side) for side in padding_sides(batch)]
    return any(needed) and "position_ids" not in batch


def _check_first_losses(model: nn.Module, batch: Mapping[str, Any], loss: Loss | None) -> None:
    n = len(batch["labels"] if "labels" in batch else next(iter(batch.values())))
    rows = slice(0, 2 if loss is None else None)
    name = type(unwrapped(model)).__name__
    with trying(model):
        tensors = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
        tensors = {name: value[rows] if value.dim() and len(value) == n else value for name, value in tensors.items()}
        versions = {name: value._version for name, value in tensors.items()}
        few = {**batch, **tensors}
        if loss is not None:
            check_determinism(model, lambda: sequence_losses(model, few, loss=loss), "losses")
        else:
            with readable(model, "batch 0"):
                if label_rule(model, few).per_sequence:
                    check_answers(model, few)
                sequence_losses(model, few)
        changed = [name for name, version in versions.items() if few[name]._version != version]
    if changed:
        raise ValueError(
            f"expected {name} to leave its inputs as they are, but it writes into {', '.join(changed)}; wrap it in a "
            "module that clones them"
        )


def is_causal(model: nn.Module) -> bool:
    """Whether position t predicts token t + 1 (GPT-2, Llama), so that labels must be shifted: tried, not looked up."""
    model = undistributed(model)
    ids = other_words(model, torch.arange(2 * 8, device=device_of(model)).reshape(2, 8))
    return label_rule(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}).shifted


def _offsets(predicted: Tensor) -> tuple[int, ...]:
    return tuple(accumulate(check_predicts(predicted, "the batch"), initial=0))
