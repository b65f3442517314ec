"""Fisher information of a model's parameters on a text, streamed batch by batch."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdrop_viz.base.checks import module
from gdrop_viz.base.interrupts import interruptible
from gdrop_viz.base.processes import meet
from gdrop_viz.base.progress import progress_bar
from gdrop_viz.base.state import preserved_modes
from gdrop_viz.fisher.batch import Batch, Objective, batch_size
from gdrop_viz.fisher.checkpoint import Checkpoint
from gdrop_viz.fisher.processes import share_of_process
from gdrop_viz.fisher.result import Fisher
from gdrop_viz.fisher.run import Run
from gdrop_viz.fisher.weights import chosen_weights
from gdrop_viz.models.backbone import undistributed
from gdrop_viz.models.differentiation import own_arithmetic
from gdrop_viz.models.losses import Loss

logger = logging.getLogger(__name__)


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
    version: str | None = None,
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
        "batched": per-sequence gradients from one batched backward pass. "loop": one pass per sequence. "auto":
        batched, after a comparison with the loop on two short sequences; whatever differs goes through the loop, said
        once.
    loss
        callable(outputs, batch) -> (N,) for models whose objective is another; `outputs` is the model's output.
    parameters
        Names to restrict the work to; all of `model.named_parameters()` otherwise. Tied parameters count once.
    draws, seed
        Random draws per sequence of the "sampled" and "hutchinson" estimators, and their seed.
    progress
        Show a progress bar.
    checkpoint, checkpoint_seconds
        A file to which the sums are written after each batch (after several, where writing would take more than a
        tenth of the time; at the latest after `checkpoint_seconds`) and at the end; a killed or stopped run called
        again continues from it and ends with the same bits. It must belong to the same model (weights, configuration
        and code), text, loss and settings, and only one run at a time may use it.
    version
        A name for `loss` in the checkpoint, needed where its content cannot be read (it holds an open file, a lock,
        ...): change it whenever the loss changes.
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
    >>> import torch
    >>> from transformers import BertConfig, BertForMaskedLM
    >>> size = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> model = BertForMaskedLM(BertConfig(**size))
    >>> ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    >>> batch = {"input_ids": ids, "labels": torch.tensor([[-100, 4, -100], [6, -100, 8]])}
    >>> fisher = fisher_information(model, [batch], progress=False)
    >>> fisher.scores["cls.predictions.bias"].shape, fisher.n_sequences
    (torch.Size([20]), 2)
    """
    if method == "hooks":
        warnings.warn('method="hooks" is now called method="batched"', DeprecationWarning, stacklevel=2)
        method = "batched"
    given, model = model, undistributed(module(model))
    checksum = getattr(batches, "checksum", None)
    with own_arithmetic(), _uncompiled(model):
        objective = Objective(estimator, draws, seed, loss)
        run = Run(model, *chosen_weights(model, parameters), objective, resolution, method)
        batches = run.checked(given, batches, stop_when_stable)
        saved = Checkpoint(checkpoint, lambda: run.fingerprint(batches, version), seconds=checkpoint_seconds)
        meet("fisher_information")
        mine = share_of_process(batches)
        total = sum(batch_size(batches[index]) for index in mine)
        ended = "all sequences"
        with (
            saved.locked(),
            preserved_modes(model),
            interruptible(stop) as stopping,
            progress_bar(total=total, description="Fisher information", unit="seq", show=progress) as bar,
        ):
            done = saved.restore(run.sums)
            bar.update(run.sums.n_sequences)
            logger.info("%s: %d sequences, %s, %s", type(model).__name__, total, estimator, resolution)
            run.choose_way(batches)
            for count, index in enumerate(mine):
                if count < done:
                    continue
                if stopping():
                    ended = "stopped"
                    break
                run.add_batch(batches[index], index)
                done = count + 1
                bar.update(batch_size(batches[index]))
                saved.write_if_due(run.sums, done)
                if stop_when_stable is not None and run.is_stable(stop_when_stable):
                    ended = f"stable at confidence {stop_when_stable:g}"
                    break
            saved.write_if_due(run.sums, done, always=True)
        if not run.sums.n_sequences:
            raise KeyboardInterrupt("stopped before the first batch was complete: there is no Fisher information yet")
        if ended == "stopped":
            warnings.warn(
                f"Stopped after {run.sums.n_sequences} of {total} sequences: the scores are those of these sequences.",
                RuntimeWarning,
                stacklevel=2,
            )
        return run.result(ended=ended, text_checksum=checksum)


def _uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    """While this is open, compiled modules run as they were written."""
    for each in model.modules():
        if hasattr(each, "_orig_mod") or getattr(each, "_compiled_call_impl", None) is not None:
            return torch.compiler.set_stance("force_eager")
    return nullcontext()
