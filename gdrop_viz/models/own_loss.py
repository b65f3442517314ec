"""Own loss of a model, compared with ours once: which labels it shifts, and which way it reads."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdrop_viz.models.backbone import undistributed, unwrapped
from gdrop_viz.models.determinism import check_determinism
from gdrop_viz.models.facts import facts_of
from gdrop_viz.models.heads import kind_of, row_losses
from gdrop_viz.models.inputs import (
    accepted,
    decoder_inputs,
    forward_parameters,
    is_encoder_decoder,
    logits_of,
    takes_any,
)
from gdrop_viz.models.objectives import objective_of
from gdrop_viz.models.trials import FAILURES, other_words, token_shape, trying, two_rows, vocabulary_of

logger = logging.getLogger(__name__)
_stated: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # the objective that a caller gave


@dataclass(frozen=True)
class LabelRule:
    """What a model's labels belong to.

    Attributes
    ----------
    per_sequence
        One answer per sequence (a classifier); else one per token.
    shifted
        The logits at position t predict the label at t + 1.
    classes
        Width of the logits, None where it has not been seen.
    """

    per_sequence: bool
    shifted: bool = False
    classes: int | None = None


def label_rule(model: nn.Module, batch: Mapping[str, Any]) -> LabelRule:
    """Return what the labels of `batch` belong to in `model`: measured once, and remembered until its modules change.

    Two short sequences of equal length go through the model. Where a later token changes nothing before it, the model
    looks back only, and each position predicts the next token; the mean of our losses is compared with the loss that
    the model itself computes. An objective that was stated for the model (see `state_objective`) counts.

    Raises
    ------
    ValueError
        If the model's own loss is another than ours, or it reads both ways where each token is to be predicted.
    """
    labels = batch["labels"]
    if labels.dim() == 1 or labels.is_floating_point():
        return LabelRule(per_sequence=True)
    facts = facts_of(model)
    if "label rule" not in facts:
        rows = two_rows(batch)
        tokens = token_shape(rows)
        if tokens is None or tokens[1] < 2:
            return _Trial(model, _stated.get(model)).untried()
        with readable(model, "the batch"):
            rule = _Trial(model, _stated.get(model)).rule(rows)
        if rule.classes is None:  # logits that are not finite tell nothing
            return rule
        facts["label rule"] = rule
    return facts["label rule"]


@contextmanager
def readable(model: nn.Module, where: str) -> Iterator[None]:
    """Turn an error from deep inside a model's forward into one line about the batch it could not do with."""
    try:
        yield
    except (RuntimeError, IndexError, KeyError, AttributeError, AssertionError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        why = f"{type(error).__name__}, {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"expected batches that {type(unwrapped(model)).__name__} can read, got from its forward on {where}: "
            f"{why}; were they made for another model?"
        ) from error


def check_label_shape(model: nn.Module, batch: Mapping[str, Any], where: str = "the batch") -> None:
    """Raise ValueError unless there is a label for each token, in a model that labels tokens."""
    tokens, labels = token_shape(batch), batch["labels"]
    if tokens is not None and not is_encoder_decoder(model) and labels.shape != tokens:
        raise ValueError(
            f"{where} has labels of shape {tuple(labels.shape)} for token ids of shape {tuple(tokens)}; "
            "give one label per token, -100 where nothing is predicted."
        )


def state_objective(model: nn.Module, objective: str) -> None:
    """Note which objective the caller states for `model`; what was measured without it is measured anew."""
    model = undistributed(model)
    if _stated.get(model) != objective:
        facts_of(model).pop("label rule", None)
        _stated[model] = objective


class _Trial:
    """One look at a model: its logits and its own loss on two short sequences."""

    def __init__(self, model: nn.Module, objective: str | None) -> None:
        self.model, self.objective = model, objective
        self.name = type(unwrapped(model)).__name__

    def rule(self, rows: Mapping[str, Any]) -> LabelRule:
        with trying(self.model, precise=True) as self.model:
            inputs = accepted(self.model, rows)
            if is_encoder_decoder(self.model):
                return self._of_decoder(inputs, rows["labels"])
            check_determinism(self.model, lambda: logits_of(self.model(**inputs)), "logits")
            logits = logits_of(self.model(**inputs))
            if logits.dim() == 2:
                return LabelRule(per_sequence=True, classes=logits.shape[-1])
            check_label_shape(self.model, rows)
            logits = at_tokens(logits, rows["labels"].shape, self.name)
            if not bool(logits.isfinite().all()):
                return self.untried()
            labels = self._labels(rows, logits.shape[-1])
            own = own_loss(self.model, inputs, labels)
            plain = float(F.cross_entropy(logits.float().flatten(0, 1), labels.flatten()))
            shifted = float(F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()))
            looks_back = self._looks_back(rows, inputs, logits)
        is_shifted = self._decided(own, plain, shifted, looks_back, logits, rows)
        return LabelRule(per_sequence=False, shifted=is_shifted, classes=logits.shape[-1])

    def untried(self) -> LabelRule:
        """The rule for sequences too short for a trial: by the stated objective, else by the configuration's."""
        if is_encoder_decoder(self.model):
            return LabelRule(per_sequence=False)
        return LabelRule(per_sequence=False, shifted=(self.objective or _configured(self.model)) == "clm")

    def _labels(self, rows: Mapping[str, Any], classes: int) -> Tensor:
        ids = rows.get("input_ids")
        if not isinstance(ids, Tensor):
            ids = torch.arange(rows["labels"].numel(), device=rows["labels"].device).reshape(rows["labels"].shape)
        return ids.long() % classes

    def _of_decoder(self, inputs: dict[str, Any], labels: Tensor) -> LabelRule:
        labels = labels.masked_fill(labels == -100, max(int(labels.max()), 0))
        given = own_inputs = dict(inputs)
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = decoder_inputs(self.model, labels)
            if hasattr(unwrapped(self.model), "prepare_decoder_input_ids_from_labels"):
                own_inputs = inputs
        check_determinism(self.model, lambda: logits_of(self.model(**inputs)), "logits")
        logits = at_tokens(logits_of(self.model(**inputs)), labels.shape, self.name)
        own = own_loss(self.model, own_inputs, labels)
        ours = float(F.cross_entropy(logits.float().flatten(0, 1), labels.flatten()))
        if own is not None and not _same(own, ours, logits):
            raise ValueError(self._differing(own, ours, inputs))
        if own_inputs is inputs and "decoder_input_ids" not in given:
            self._say_other_decoder_inputs(given, logits)
        return LabelRule(per_sequence=False, classes=logits.shape[-1])

    def _say_other_decoder_inputs(self, inputs: Mapping[str, Any], logits: Tensor) -> None:
        """Say it if the model, left alone, feeds its decoder something else than its labels (FSMT: the text)."""
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor):
            return
        # as long as the text, or it could not be fed in their place
        labels = other_words(self.model, ids) % logits.shape[-1]
        inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        left_alone = own_loss(self.model, inputs, labels)
        fed = own_loss(self.model, {**inputs, "decoder_input_ids": decoder_inputs(self.model, labels)}, labels)
        if left_alone is not None and fed is not None and not _same(left_alone, fed, logits):
            warnings.warn(
                f"{self.name} does not make its decoder's inputs from its labels (its own loss on a trial is "
                f"{left_alone:.4f}, from the labels {fed:.4f}): the loss here is that of decoder inputs made from the "
                "labels, as its prepare_decoder_input_ids_from_labels makes them.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _looks_back(self, rows: Mapping[str, Any], inputs: Mapping[str, Any], logits: Tensor) -> float:
        """How much the later half of the tokens changes the logits before it, in units of what it changes itself."""
        half = logits.shape[1] // 2 or 1
        name = "input_ids" if isinstance(rows.get("input_ids"), Tensor) else "inputs_embeds"
        changed = rows[name].clone()
        # of the first sequence only: a mixture of experts may let the second see it, which is another matter
        later = changed[0, half:]
        changed[0, half:] = other_words(self.model, later) if name == "input_ids" else -later
        difference = (
            at_tokens(logits_of(self.model(**{**inputs, name: changed})), logits.shape[:2], "") - logits
        ).abs()
        before, after = float(difference[0, :half].max()), float(difference[0, half:].max())
        return before / after if after > 0 else 0.0

    def _decided(
        self, own: float | None, plain: float, shifted: float, mixing: float, logits: Tensor, rows: Mapping[str, Any]
    ) -> bool:
        own_shifts = own is not None and _same(own, shifted, logits) and abs(own - shifted) < abs(own - plain) / 2
        own_does_not = own is not None and _same(own, plain, logits) and abs(own - plain) < abs(own - shifted) / 2
        unclear = own is not None and _same(own, plain, logits) and _same(own, shifted, logits)
        half_precision = logits.element_size() < 4
        # experts round differently with other tokens beside them, in half precision visibly
        looks_back = mixing <= 1e-4 or (half_precision and own_shifts and mixing < 0.1)
        if own is not None and not own_shifts and not own_does_not and not unclear:
            raise ValueError(self._differing(own, shifted if looks_back else plain, rows))
        if not self._predicts_words(logits):
            return own_shifts
        if not looks_back and (own_shifts or (self.objective or _configured(self.model)) == "clm"):
            raise ValueError(
                f"{self.name} reads both ways (later tokens change the logits before them), so each token would see "
                "the one it is to predict; make masked batches with objective='mlm', or pass loss="
            )
        if self.objective == "mlm" and own_shifts:
            raise ValueError(
                f"objective 'mlm' does not fit {self.name}: its own loss is {own:.4f}, that of the next token, where "
                f"the loss of the token itself is {plain:.4f}; state objective='clm'"
            )
        if self.objective == "mlm" or not looks_back:
            return False
        if own_does_not:
            warnings.warn(
                f"{self.name} looks back only, but does not shift its labels (its own loss is {own:.4f}): the loss "
                f"here is that of the next token ({shifted:.4f}).",
                RuntimeWarning,
                stacklevel=2,
            )
        return True

    def _predicts_words(self, logits: Tensor) -> bool:
        inner: Any = unwrapped(self.model)
        try:
            head = inner.get_output_embeddings()
        except (AttributeError, NotImplementedError):
            head = None
        return head is not None or logits.shape[-1] == vocabulary_of(self.model)

    def _differing(self, own: float, ours: float, rows: Mapping[str, Any]) -> str:
        more = [name for name in rows if name != "labels" and name.endswith(("label", "labels", "positions"))]
        remedy = f"leave {', '.join(more)} out, or pass loss=" if more else "pass loss="
        return (
            f"expected the loss of {self.name} to be the mean negative log-likelihood of its labels, {ours:.4f} on a "
            f"trial, got {own:.4f} from the model itself; {remedy}"
        )


def check_answers(model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Raise ValueError, with both numbers, if the loss of a classifier on `batch` is another than the model's own."""
    with trying(model, precise=True) as tried:
        inputs = accepted(tried, batch)
        check_determinism(tried, lambda: logits_of(tried(**inputs)), "logits")
        logits, labels = logits_of(tried(**inputs)), batch["labels"]
        kind = kind_of(model, logits, labels)
        own = own_loss(tried, inputs, labels)
        ours = float(row_losses(kind, logits, comparable(kind, logits, labels)).mean())
        if own is not None and not _same(own, ours, logits):
            raise ValueError(_Trial(model, None)._differing(own, ours, batch))


def comparable(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The labels as `row_losses` takes them: (M,) integers, or numbers of the logits' type."""
    labels = labels.to(logits.device)
    if kind == "classes":
        labels, classes = labels.reshape(-1).long(), logits.shape[-1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"expected labels from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}; take out "
                "sequences without a label, or load the model with num_labels="
            )
        return labels
    return labels.to(logits.dtype if logits.element_size() >= 4 else torch.float32)


def own_loss(model: nn.Module, inputs: Mapping[str, Any], labels: Tensor) -> float | None:
    """The loss that the model itself computes; None if it computes none. All it gets are copies."""
    parameters = forward_parameters(model)
    if "labels" not in parameters and not takes_any(parameters):
        return None
    labels = labels.clone() if labels.is_floating_point() else labels.long().clone()
    copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    if "output_router_logits" in parameters:
        copies["output_router_logits"] = False  # the experts' balance is no part of the loss of the text
    try:
        loss = getattr(model(**copies, labels=labels), "loss", None)
    except FAILURES as error:
        logger.info("%s computes no loss of its own here: %s", type(model).__name__, error)
        return None
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 and math.isfinite(float(loss)) else None


def at_tokens(logits: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Return logits (N, T, C) as they are; raise ValueError unless there is a row for each label (N, T)."""
    if logits.dim() == 3 and logits.shape[:2] == tuple(shape):
        return logits
    raise ValueError(
        f"expected logits of {name} for labels of shape {tuple(shape)}, got logits of shape {tuple(logits.shape)}; "
        "give one label per token (a learned prompt's tokens have none), or pass loss="
    )


def _same(own: float, ours: float, logits: Tensor) -> bool:
    # the same sum in another order; half precision also in other blocks of the same matrix product
    return math.isclose(own, ours, rel_tol=1e-5 if logits.element_size() >= 4 else 1e-2, abs_tol=1e-6)


def _configured(model: nn.Module) -> str | None:
    try:
        return objective_of(getattr(unwrapped(model), "config", None))
    except (ValueError, TypeError):
        return None
