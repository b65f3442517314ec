"""Loss of each sequence: model + batch -> logits at the predicted tokens -> one loss per sequence.

The unit of every quantity in this package is one sequence: L_n = mean negative log-likelihood (nats) over the
predicted tokens of sequence n (paper, eq. 3 and section 3). The end of a model works position by position, so it is fed
the positions that are read only: the same numbers for a fraction of the work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdrop_viz.models.backbone import unwrapped
from gdrop_viz.models.devices import on_device_of
from gdrop_viz.models.position_wise import only_at, only_first

IGNORED = -100

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Predictions:
    """The model's logits where it is asked for a prediction.

    logits: (M, C), one row per predicted token (or per sequence for a classifier), ordered by sequence.
    labels: (M,) integer classes, or floats for a regression head.
    offsets: (N + 1,) rows of sequence n are offsets[n] .. offsets[n + 1] - 1.
    """

    logits: Tensor
    labels: Tensor
    offsets: tuple[int, ...]

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
        """Loss of each sequence, (N,): mean NLL in nats; squared error for a regression head. Differentiable."""
        if self.labels.is_floating_point():
            errors = (self.logits.squeeze(-1) - self.labels).square()
            return self.per_sequence(errors if errors.dim() == 1 else errors.mean(-1))
        # half precision loses the log-likelihood's small differences: the softmax is always at least float32
        logits = self.logits.float() if self.logits.dtype in (torch.float16, torch.bfloat16) else self.logits
        return self.per_sequence(F.cross_entropy(logits, self.labels, reduction="none"))


def sequence_losses(model: nn.Module, batch: Mapping[str, Tensor], *, loss: Loss | None = None) -> Tensor:
    """Return L_n, the loss of each sequence of `batch`: shape (N,), differentiable; its unit: see `loss_unit`.

    model: a Hugging Face masked, causal or encoder-decoder language model or classifier, in the mode it is in (put it
        in eval mode for the pretraining loss); with `loss=` any module.
    batch: the model's inputs and "labels", (N, T) with -100 where nothing is predicted, or (N,) for a classifier. The
        shift of causal models happens here, as in transformers.
    loss: callable(outputs, batch) -> (N,) for models whose objective is another; it gets `model(**inputs)` with
        "labels" left out.

    The batch is moved to the model's device.

    Raises ValueError if labels are missing, a sequence predicts nothing, or `loss` returns another shape.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> model = BertForMaskedLM(config).eval()
    >>> ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    >>> labels = torch.tensor([[-100, 4, -100], [6, -100, 8]])
    >>> sequence_losses(model, {"input_ids": ids, "labels": labels}).shape
    torch.Size([2])
    """
    batch = on_device_of(model, batch)
    if loss is not None:
        losses = loss(model(**_accepted(model, batch)), batch)
        n = len(next(iter(batch.values())))
        if not isinstance(losses, Tensor) or losses.shape != (n,):
            came = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"loss= must return one loss per sequence, a tensor of shape ({n},); it returned {came}.")
        return losses
    return predictions(model, batch).losses()


def loss_unit(batch: Mapping[str, Tensor], *, loss: Loss | None = None) -> str:
    """Return the unit of `sequence_losses`: "" where a `loss` of one's own makes it.

    >>> loss_unit({"labels": torch.tensor([[-100, 7]])}), loss_unit({"labels": torch.tensor([1, 0])})
    ('nats per predicted token', 'nats')
    >>> loss_unit({"labels": torch.tensor([0.5, 2.0])})
    'squared label units'
    """
    labels = batch.get("labels")
    if loss is not None or labels is None:
        return ""
    if labels.is_floating_point():
        return "squared label units"
    return "nats" if labels.dim() == 1 else "nats per predicted token"


def predictions(model: nn.Module, batch: Mapping[str, Tensor]) -> Predictions:
    """Run `model` on `batch` and return its logits and labels at the predicted positions only."""
    labels = batch.get("labels")
    if labels is None:
        raise ValueError('The batch has no "labels"; give them (-100 where nothing is predicted) or pass loss=.')
    inputs = _accepted(model, batch)
    if labels.dim() == 1 or labels.is_floating_point():
        with only_first(model, inputs, logits=_logits):
            logits = _logits(model(**inputs))
        return Predictions(logits, labels, tuple(range(len(labels) + 1)))
    if is_encoder_decoder(model) and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = cast(Any, model).prepare_decoder_input_ids_from_labels(labels=labels)
    shifted = is_causal(model)
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED) if shifted else labels
    predicted = targets != IGNORED
    offsets = _offsets(predicted)
    # a causal model or a decoder predicts nearly every position: only its head is worth looking at
    inside = not (shifted or is_encoder_decoder(model))
    with only_at(model, inputs, predicted, offsets, logits=_logits, inside=inside) as gathered:
        logits = _logits(model(**inputs))
    # squeezed, not indexed: the backward of an index fills and copies a whole tensor of logits
    return Predictions(logits.squeeze(0) if gathered else logits[predicted], targets[predicted], offsets)


def check_batch(model: nn.Module, batch: Any, *, loss: Loss | None = None, where: str = "the batch") -> None:
    """Raise ValueError or TypeError, in one line, if `model` could not compute the losses of `batch`; no forward."""
    if not isinstance(batch, Mapping) or not batch:
        raise TypeError(f"{where} must be a dict of tensors with its labels, got {type(batch).__name__}.")
    if loss is not None:
        return
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(f'{where} has no "labels" tensor; gv.pretraining_batches makes them, or pass loss=.')
    config = getattr(model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    ids = batch.get("input_ids")
    if isinstance(positions, int) and positions > 0 and isinstance(ids, Tensor) and ids.shape[1] > positions:
        raise ValueError(
            f"{where} has sequences of {ids.shape[1]} tokens, the model has {positions} positions; "
            f"make batches with max_length={positions} or less."
        )
    vocabulary = getattr(config, "vocab_size", None)
    if isinstance(ids, Tensor) and isinstance(vocabulary, int) and ids.numel():
        bad = next((int(x) for x in (ids.max(), ids.min()) if not 0 <= int(x) < vocabulary), None)
        if bad is not None:
            raise ValueError(
                f"{where} holds the token id {bad}, the model knows ids from 0 and below {vocabulary}; "
                "was it made with another model's tokenizer?"
            )
    if labels.dim() != 2 or labels.is_floating_point():
        return
    if isinstance(ids, Tensor) and not is_encoder_decoder(model) and labels.shape != ids.shape:
        raise ValueError(
            f"{where} has labels of shape {tuple(labels.shape)} for token ids of shape {tuple(ids.shape)}; "
            "give one label per token, -100 where nothing is predicted."
        )
    known = labels[labels != IGNORED]
    if isinstance(vocabulary, int) and known.numel() and not 0 <= int(known.min()) <= int(known.max()) < vocabulary:
        raise ValueError(f"{where} has labels outside 0 .. {vocabulary - 1} (and -100); was it made for another model?")
    _offsets((labels[:, 1:] if is_causal(model) else labels) != IGNORED, where)


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether labels belong to a decoder of their own (T5, BART)."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def is_causal(model: nn.Module) -> bool:
    """Whether position t predicts token t + 1 (GPT-2, Llama), so that labels must be shifted."""
    if is_encoder_decoder(model):
        return False
    inner = unwrapped(model)
    name = type(inner).__name__
    return name.endswith(("CausalLM", "LMHeadModel")) or getattr(inner, "loss_type", None) == "ForCausalLM"


def _offsets(predicted: Tensor, where: str = "the batch") -> tuple[int, ...]:
    counts = predicted.sum(1).tolist()
    if 0 in counts:
        raise ValueError(
            f"Sequence {counts.index(0)} of {where} predicts no token (all labels are -100); "
            "drop it or mask at least one token: gv.pretraining_batches does."
        )
    offsets = [0]
    for count in counts:
        offsets.append(offsets[-1] + count)
    return tuple(offsets)


def _accepted(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model's inputs: the batch without its labels, no cache kept."""
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    if hasattr(model, "config"):
        parameters = inspect.signature(model.forward).parameters
        if "use_cache" in parameters:
            inputs["use_cache"] = False
        if "return_dict" in parameters:
            inputs["return_dict"] = True
    return inputs


def _logits(outputs: Any) -> Tensor:
    for name in ("logits", "prediction_logits"):
        if isinstance(getattr(outputs, name, None), Tensor):
            return getattr(outputs, name)
    raise ValueError(
        f"Expected a model output with logits, got {type(outputs).__name__}; "
        "pass loss=callable(outputs, batch) -> (N,) for other models."
    )
