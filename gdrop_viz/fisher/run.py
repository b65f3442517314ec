"""Estimation in progress: which parameters go which way, one batch after the other, and the result of what was seen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from gdrop_viz.base.checks import few, number, one_of
from gdrop_viz.base.processes import distributed
from gdrop_viz.fisher.batch import Batch, Objective, Part, add_batched, add_looped, batch_size
from gdrop_viz.fisher.checkpoint import fingerprint
from gdrop_viz.fisher.estimators import check_estimator
from gdrop_viz.fisher.layouts import Layout, inputs_first, layouts_of
from gdrop_viz.fisher.processes import merged
from gdrop_viz.fisher.result import Fisher
from gdrop_viz.fisher.self_check import check_gradients, first_two, self_check
from gdrop_viz.fisher.stability import is_stable
from gdrop_viz.fisher.sums import IncompleteSum, Sums
from gdrop_viz.fisher.weights import weights_of
from gdrop_viz.models.devices import on_device_of
from gdrop_viz.models.differentiation import recordable
from gdrop_viz.models.facts import facts_of
from gdrop_viz.models.losses import checked_batches

logger = logging.getLogger(__name__)

METHODS = ("auto", "batched", "loop")
RESOLUTIONS = ("element", "tensor")


@dataclass
class Run:
    """One estimation of the scores of `parameters`; `left_out` are those that cannot have any.

    `looped` are those that go through the loop, with the reason; `kinds` what the self-check has seen of the others.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    left_out: list[str]
    objective: Objective
    resolution: str
    method: str
    looped: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, frozenset[str]] | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    sums: Sums = field(init=False)
    _starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        check_estimator(self.objective.estimator, self.objective.draws)
        one_of(self.resolution, RESOLUTIONS, "resolution")
        one_of(self.method, METHODS, "method")
        loss = self.objective.loss
        if loss is not None and self.objective.estimator != "empirical":
            raise ValueError(
                f"estimator={self.objective.estimator!r} needs the model's logits; with loss= take 'empirical'"
            )
        if loss is not None and not callable(loss):
            raise TypeError(f"expected loss as a callable(outputs, batch) -> (N,), got {type(loss).__name__}")
        self.sums = Sums.of(self.parameters, elements=self.resolution == "element")

    def checked(self, given: Any, batches: Any, stop_when_stable: float | None) -> Sequence[Batch]:
        """Return the batches; everything that can be wrong with them is found before the work starts."""
        if stop_when_stable is not None:
            number(stop_when_stable, "stop_when_stable, a confidence,", above=0, below=1)
            if distributed():
                raise ValueError("stop_when_stable= needs one process: several would not stop at the same batch")
        batches = checked_batches(given, batches, loss=self.objective.loss)
        # random labels belong to a sequence's number in the whole text, whichever process works on it
        self._starts = [0, *accumulate(batch_size(batch) for batch in batches)]
        return batches

    def fingerprint(self, batches: Sequence[Batch], version: str | None) -> str:
        """Of everything that determines the sums."""
        names = list(self.parameters)
        return fingerprint(self.model, batches, self.objective, self.resolution, self.method, names, version)

    def choose_way(self, batches: Sequence[Batch]) -> None:
        """Decide by a look at the first two sequences which parameters go through the loop, and say so."""
        two = recordable(on_device_of(self.model, first_two(batches)))
        with inputs_first(self.model) as transposed:
            check_gradients(self.model, two, self.objective)
        self.layouts = layouts_of(self.model, self.parameters, transposed)
        if self.method == "loop":
            self.looped = dict.fromkeys(self.parameters, "method='loop'")
        elif self.method == "auto" and facts_of(self.model).get("mixes"):
            self._loop(dict.fromkeys(self.parameters, "the sequences of a batch influence each other"))
        elif self.method == "auto":
            elements = self.resolution == "element"
            checked = self_check(self.model, self.parameters, two, self.objective, elements=elements)
            self.kinds = checked.kinds
            self._loop(checked.looped)

    def add_batch(self, batch: Batch, index: int) -> None:
        """Add one batch; if it does not fit into memory, its halves."""
        part = Part(recordable(on_device_of(self.model, batch)), self._starts[index], where=f"batch {index}")
        self.sums.begin(len(part))
        self._add(part, {})
        self.sums.end(part.where)

    def _add(self, part: Part, added: Mapping[str, int]) -> None:
        batched = {name: p for name, p in self.parameters.items() if name not in self.looped}
        progress = dict(added)
        try:
            left_out = {}
            if batched:
                left_out = add_batched(
                    self.model, batched, part, self.sums, self.objective, added=progress, checked=self.kinds
                ).left_out
        except RuntimeError as error:
            if not _is_out_of_memory(error) or len(part) < 2:
                raise
            logger.warning("%s does not fit into memory: going on with halves of it", part.where)
            error.__traceback__ = None  # frames of the failed pass keep its activations alive
        else:
            self._loop(left_out)
            looped = {name: p for name, p in self.parameters.items() if name in self.looped}
            add_looped(self.model, looped, part, self.sums, self.objective)
            return
        for half in part.halves():
            self._add(half, progress)

    def _loop(self, left_out: Mapping[str, str]) -> None:
        new = {name: why for name, why in left_out.items() if name not in self.looped}
        self.looped.update(new)
        if new:
            shown = few([f"{name} ({why})" for name, why in new.items()], 5)
            warnings.warn(
                f"{len(new)} of {len(self.parameters)} parameter tensors go through the loop, one pass per sequence: "
                f"{shown}. The scores are exact all the same.",
                RuntimeWarning,
                stacklevel=4,
            )

    def is_stable(self, confidence: float) -> bool:
        """Whether the order of the dropout sites is settled at this confidence."""
        return is_stable(self.model, self.sums.history_rows(), self.sums.names, confidence)

    def result(self, *, ended: str, text_checksum: str | None) -> Fisher:
        """The scores of the sequences seen so far; a run under torchrun adds up those of all processes."""
        import pandas as pd

        sums = merged(self.sums)
        names = pd.Index(sums.names, name="parameter")
        n = sums.n_sequences
        scores = None
        if sums.squares is not None:
            scores = {name: square.div_(n) for name, square in sums.squares.items()}
        return Fisher(
            means=pd.Series(sums.means(), index=names, name="mean"),
            standard_errors=pd.Series(sums.standard_errors(), index=names, name="standard error"),
            n_sequences=n,
            estimator=self.objective.estimator,
            resolution=self.resolution,
            shapes={name: tuple(p.shape) for name, p in self.parameters.items()},
            scores=scores,
            history=pd.DataFrame(sums.history_rows(), columns=names),
            model_class=type(self.model).__name__,
            layouts=self.layouts,
            is_restricted=len(self.parameters) + len(self.left_out) < len(weights_of(self.model)),
            left_out=self.left_out,
            looped=self.looped,
            ended=ended,
            text_checksum=text_checksum,
            metadata={
                "draws": self.objective.draws,
                "seed": self.objective.seed,
                "sequences per history row": sums.block,
                "libraries": {name: version(name) for name in ("torch", "transformers", "safetensors")},
            },
        )


def _is_out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, IncompleteSum):
        return False
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
