"""The Fisher information of a model's parameters on a text, streamed batch by batch."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdrop_viz.base.checks import finite_weights
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.processes import distributed
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.state import preserved_modes
from gdrop_viz.fisher.batch import Batch, Objective, batch_size, by_hooks, by_loop, part_of
from gdrop_viz.fisher.checkpoint import Checkpoint, fingerprint
from gdrop_viz.fisher.estimators import check_estimator
from gdrop_viz.fisher.processes import merged, my_share
from gdrop_viz.fisher.result import Fisher
from gdrop_viz.fisher.self_check import untrusted
from gdrop_viz.fisher.stability import settled
from gdrop_viz.fisher.sums import Sums
from gdrop_viz.models.devices import check_weights_present, on_device_of
from gdrop_viz.models.losses import Loss, check_batch

logger = logging.getLogger(__name__)

METHODS = ("auto", "hooks", "loop")
RESOLUTIONS = ("element", "tensor")


def fisher_information(
    model: nn.Module,
    batches: Sequence[Batch] | Iterable[Batch],
    *,
    estimator: str = "empirical",
    resolution: str = "element",
    method: str = "auto",
    loss: Loss | None = None,
    parameters: Iterable[str] | None = None,
    draws: int = 1,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    stop_when_stable: float | None = None,
    stop: threading.Event | None = None,
) -> Fisher:
    """Estimate the diagonal Fisher information of `model`'s loss: F = 1/N Σ_n (∂L_n/∂θ)².

    The unit is one sequence: L_n is the mean negative log-likelihood (nats) over the predicted tokens of sequence n,
    the model in eval mode; every sequence's gradient is squared, never the mean gradient of a batch (Sharma et al.,
    COLM 2024, eq. 3).

    Parameters
    ----------
    model
        A Hugging Face language model or classifier, a `Pretrained`, or with `loss=` any module; it is left as it was.
    batches
        Batches as `pretraining_batches` gives them: dicts of tensors with "labels".
    estimator
        "empirical" (labels of the data), "sampled" (labels drawn from the model), "hutchinson" (the same expectation
        without labels) or "exact" (expectation over the classes; classifiers only): see `gdrop_viz.fisher.estimators`.
    resolution
        "element": a score for every parameter, `fisher.scores`. "tensor": only each tensor's mean, without forming
        weight gradients where Gram matrices are cheaper, in the memory of inference plus activations.
    method
        "hooks": per-sequence gradients from one batched backward pass. "loop": one pass per sequence. "auto": hooks,
        after comparing them with the loop on two short sequences; whatever differs goes through the loop, said once.
    loss
        callable(outputs, batch) -> (N,) for models whose objective is another; `outputs` is the model's output.
    parameters
        Names to restrict the work to; all of `model.named_parameters()` otherwise. Tied parameters count once.
    draws, seed
        Random draws per sequence of the "sampled" and "hutchinson" estimators, and their seed.
    checkpoint
        A file to which the sums are written after each batch (after several, where writing would take more than a
        tenth of the time; at the latest after `checkpoint_seconds`) and at the end; a killed or stopped run called
        again continues from it and ends with the same bits. It must belong to the same model, text and settings, and
        only one run at a time may use it.
    stop_when_stable
        A confidence such as 0.95: end as soon as the order of the model's dropout sites (layers x components, where it
        has none) is settled, i.e. the bootstrap says with this confidence that its Spearman correlation with the order
        after the same number of other sequences is at least 0.95. `fisher.n_sequences` says how many that took.
    stop
        An event that ends the run after the current batch. Ctrl-C does the same. What was seen so far is returned.

    Returns
    -------
    Fisher
        Scores, means of tensors with standard errors over sequences, and their history.

    Raises
    ------
    ValueError
        On unknown settings, batches without labels or predicted tokens, labels out of range, sequences longer than the
        model's positions, a checkpoint of another run, or losses that are not finite.

    Examples
    --------
    >>> from transformers import BertConfig, BertForMaskedLM
    >>> size = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> model = BertForMaskedLM(BertConfig(**size))
    >>> ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    >>> batch = {"input_ids": ids, "labels": torch.tensor([[-100, 4, -100], [6, -100, 8]])}
    >>> fisher = fisher_information(model, [batch], progress=False)
    >>> fisher.scores["cls.predictions.bias"].shape, fisher.n_sequences
    (torch.Size([20]), 2)
    """
    model = _module(model)
    objective = Objective(estimator, draws, seed, loss)
    run = _Run(model, _chosen(model, parameters), objective, resolution, method)
    batches = run.checked(batches, stop_when_stable)
    identity = partial(fingerprint, model, batches, objective, resolution, list(run.parameters))
    saved = Checkpoint(checkpoint, identity, seconds=checkpoint_seconds)
    mine = my_share(batches)
    total = sum(batch_size(batches[index]) for index in mine)
    reason = "all sequences"
    with (
        saved.held(),
        preserved_modes(model),
        interruptible(stop) as stopping,
        progress_bar(total=total, description="Fisher information", unit="seq", show=progress) as bar,
    ):
        done = saved.restore(run.sums)
        bar.update(run.sums.n_sequences)
        logger.info("%s: %d sequences, %s, %s", type(model).__name__, total, estimator, resolution)
        run.trust(batches[0])
        for count, index in enumerate(mine):
            if count < done:
                continue
            if stopping():
                reason = "stopped"
                break
            run.take(batches[index], index)
            done = count + 1
            bar.update(batch_size(batches[index]))
            saved.write_if_due(run.sums, done)
            if stop_when_stable is not None and run.is_settled(stop_when_stable):
                reason = f"stable at confidence {stop_when_stable:g}"
                break
        saved.write_if_due(run.sums, done, always=True)
    if not run.sums.n_sequences:
        raise KeyboardInterrupt("stopped before the first batch was complete: there is no Fisher information yet")
    if reason == "stopped":
        warnings.warn(
            f"Stopped after {run.sums.n_sequences} of {total} sequences: the scores are those of these sequences.",
            RuntimeWarning,
            stacklevel=2,
        )
    return run.result(ended=reason, checksum=getattr(batches, "checksum", None))


@dataclass
class _Run:
    """One estimation in progress."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    objective: Objective
    resolution: str
    method: str
    looped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_estimator(self.objective.estimator, self.objective.draws)
        for value, allowed, what in (
            (self.resolution, RESOLUTIONS, "resolution"),
            (self.method, METHODS, "method"),
        ):
            if value not in allowed:
                raise ValueError(f"{what} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")
        if self.objective.loss is not None and self.objective.estimator != "empirical":
            raise ValueError(
                f"estimator={self.objective.estimator!r} needs the model's logits; with loss= take 'empirical'."
            )
        if self.objective.loss is not None and not callable(self.objective.loss):
            raise TypeError(f"loss must be callable(outputs, batch) -> (N,), got {type(self.objective.loss).__name__}.")

    def checked(self, batches: Iterable[Batch], stop_when_stable: float | None) -> Sequence[Batch]:
        """Everything that can be wrong is found before the work starts."""
        if stop_when_stable is not None and not 0 < stop_when_stable < 1:
            raise ValueError(f"stop_when_stable is a confidence between 0 and 1, such as 0.95; got {stop_when_stable}.")
        if isinstance(batches, (Mapping, str)) or not isinstance(batches, Iterable):
            came = type(batches).__name__
            raise TypeError(f"batches must be a sequence of dicts of tensors (gv.pretraining_batches), got {came}.")
        if not isinstance(batches, Sequence):
            batches = list(batches)
        if not batches:
            raise ValueError("There are no batches; gv.pretraining_batches(lm, texts) makes them.")
        for index, batch in enumerate(batches):
            check_batch(self.model, batch, loss=self.objective.loss, where=f"batch {index}")
        if stop_when_stable is not None and distributed():
            raise ValueError("stop_when_stable= needs one process: several would not stop at the same batch.")
        # random labels belong to a sequence's number in the whole text, whichever process takes it
        self.starts = [0, *accumulate(batch_size(batch) for batch in batches)]
        finite_weights(self.model.named_parameters())
        self.sums = Sums.of(self.parameters, elements=self.resolution == "element")
        return batches

    def trust(self, batch: Batch) -> None:
        """Decide which parameters go through the loop, and say so."""
        if self.method == "loop":
            self.looped = dict.fromkeys(self.parameters, "method='loop'")
            return
        if self.method == "hooks":
            return
        self.looped = untrusted(
            self.model,
            self.parameters,
            on_device_of(self.model, batch),
            elements=self.resolution == "element",
            objective=self.objective,
        )
        self._announce(self.looped)

    def take(self, batch: Batch, index: int) -> None:
        """Add one batch; if it does not fit into memory, its halves."""
        first = self.starts[index]
        batch = on_device_of(self.model, batch)
        self.sums.begin(batch_size(batch))
        self._take_rows(batch, slice(0, batch_size(batch)), set(), first, f"batch {index}")
        self.sums.end(f"batch {index}")

    def _take_rows(self, batch: Batch, rows: slice, have: set[str], first: int, where: str) -> None:
        part = part_of(batch, rows)
        hooked = {name: p for name, p in self.parameters.items() if name not in self.looped and name not in have}
        self.sums.at_row(rows.start)
        self.sums.done.clear()
        try:
            left_out = {}
            if hooked:
                left_out = by_hooks(
                    self.model,
                    hooked,
                    part,
                    self.sums,
                    objective=self.objective,
                    first=first + rows.start,
                    row=rows.start,
                    where=where,
                )
        except RuntimeError as error:
            if not _is_out_of_memory(error) or rows.stop - rows.start < 2 or self.sums.changing is not None:
                raise
            have = have | self.sums.done
            middle = (rows.start + rows.stop) // 2
            logger.warning("%s does not fit into memory: going on with halves of it", where)
            error.__traceback__ = None  # frames of the failed pass keep its activations alive
        else:
            self._announce({name: why for name, why in left_out.items() if name not in self.looped})
            self.looped.update(left_out)
            looped = {name: p for name, p in self.parameters.items() if name in self.looped and name not in have}
            by_loop(
                self.model,
                looped,
                part,
                self.sums,
                objective=self.objective,
                first=first + rows.start,
                row=rows.start,
                where=where,
            )
            return
        for half in (slice(rows.start, middle), slice(middle, rows.stop)):
            self._take_rows(batch, half, have, first, where)

    def _announce(self, looped: Mapping[str, str]) -> None:
        if not looped or not self.parameters:
            return
        shown = [f"{name} ({why})" for name, why in list(looped.items())[:5]]
        more = f" and {len(looped) - 5} more" if len(looped) > 5 else ""
        warnings.warn(
            f"{len(looped)} of {len(self.parameters)} parameter tensors go through the loop, one pass per sequence: "
            f"{', '.join(shown)}{more}. The scores are exact all the same.",
            RuntimeWarning,
            stacklevel=4,
        )

    def is_settled(self, confidence: float) -> bool:
        history = self.sums.history_rows()
        return settled(self.model, history, self.sums.names, self.sums.numel, confidence)

    def result(self, *, ended: str, checksum: str | None) -> Fisher:
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
            metadata={
                "model": type(self.model).__name__,
                "heads": self._of_config("num_attention_heads"),
                "key value heads": self._of_config("num_key_value_heads") or None,
                "restricted": len(self.parameters) < len(list(self.model.parameters())),
                "draws": self.objective.draws,
                "seed": self.objective.seed,
                "text checksum": checksum,
                "sequences per history row": sums.block,
                "through the loop": self.looped,
                "ended": ended,
            },
        )

    def _of_config(self, name: str) -> int:
        value = getattr(getattr(self.model, "config", None), name, None)
        return value if isinstance(value, int) else 0


def _module(model: Any) -> nn.Module:
    inner = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(inner, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or a Pretrained, got {type(model).__name__}.")
    return inner


def _chosen(model: nn.Module, parameters: Iterable[str] | None) -> dict[str, nn.Parameter]:
    check_weights_present(model)
    known = dict(model.named_parameters())
    if not known:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is no Fisher information.")
    if parameters is None:
        return known
    names = list(dict.fromkeys(parameters))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"parameters must name parameters of the model; {unknown[:3]} are none. "
            f"It has {', '.join(list(known)[:3])}, ..."
        )
    return {name: known[name] for name in names}


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
