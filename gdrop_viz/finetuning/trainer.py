"""Hugging Face `Trainer` with a data order that only the seed decides, and a record of its scores.

Importing this module takes seconds (it imports the Trainer), so it is imported where training begins.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from gdrop_viz.base.locks import give_way
from gdrop_viz.base.processes import n_processes, rank
from gdrop_viz.finetuning.calibration import calibration_error
from gdrop_viz.finetuning.events import Event, Listener, StopSignal
from gdrop_viz.text.tasks import Task


class Stopped(Exception):
    """Ends a training at once; what was recorded stays."""


class SharedBatches:
    """The rows of each batch that belong to one of several processes: every n-th one, from its rank on.

    A process without a row in a small last batch gets the first one, so that all of them take part; `PairedTrainer`
    weighs it with 0.
    """

    def __init__(self, whole: BatchSampler, processes: int, rank: int) -> None:
        self.whole, self.processes, self.rank = whole, processes, rank

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.whole:
            yield batch[self.rank :: self.processes] or batch[:1]

    def __len__(self) -> int:
        return len(self.whole)


class PairedTrainer(Trainer):
    """A `Trainer` whose order of batches is a function of the seed alone.

    The Trainer's own length-grouped sampler draws from the global generator, which dropout advances: arms with other
    rates would see other batches from the second epoch on, and their differences would no longer be paired.
    """

    def __init__(
        self,
        *,
        train: list[dict[str, Any]],
        validation: dict[str, list[dict[str, Any]]],
        group_by_length: bool,
        **settings: Any,
    ) -> None:
        super().__init__(train_dataset=train, eval_dataset=validation, **settings)
        self.train_rows, self.validation = train, validation
        self.group_by_length = group_by_length
        self.processes, self.rank = n_processes(), rank()
        if self.args.world_size != self.processes:
            raise RuntimeError(
                f"the Trainer works with {self.args.world_size} of the {self.processes} processes that were launched; "
                "start with torchrun or accelerate launch, and create nothing of accelerate before"
            )
        self.batches_taken = 0
        # a classifier's loss is a mean over the batch: without this the Trainer takes the **kwargs of its forward for
        # the ability to average over all accumulated batches, and adds their gradients up instead
        self.model_accepts_loss_kwargs = False
        self.update_loss: float | torch.Tensor = 0.0  # of the micro-batches since the last update
        self.update_rows = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        rows = self.train_rows if train_dataset is None else train_dataset
        generator = torch.Generator().manual_seed(self.args.seed)
        if not self.group_by_length:
            return RandomSampler(rows, generator=generator)
        return LengthGroupedSampler(
            self.args.train_batch_size * self.processes * self.args.gradient_accumulation_steps,
            lengths=[len(row["input_ids"]) for row in rows],
            generator=generator,
        )

    def get_train_dataloader(self) -> DataLoader:
        if self.processes == 1:
            return super().get_train_dataloader()
        # accelerate would fill up the last batch with rows from the first one, which one process does not see
        whole = BatchSampler(self._get_train_sampler(), self.args.train_batch_size * self.processes, drop_last=False)
        mine = SharedBatches(whole, self.processes, self.rank)
        rows: Any = self.train_rows  # any sequence will do
        return DataLoader(rows, batch_sampler=mine, collate_fn=self.data_collator)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        if self.processes == 1 or not model.training:
            return loss
        # the gradients of all processes are averaged: weigh this one's mean by its share of the batch's rows
        whole, mine = self._rows_of_batch()
        self.batches_taken += 1
        return loss * (self.processes * mine / whole)

    def _rows_of_batch(self) -> tuple[int, int]:
        """Return the rows of the batch that all processes are at, and how many of them this one has."""
        size, total = self.args.train_batch_size * self.processes, len(self.train_rows)
        number = self.batches_taken % math.ceil(total / size)
        whole = min(size, total - number * size)
        return whole, len(range(self.rank, whole, self.processes))

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows = len(inputs["labels"]) if self.processes == 1 else self._rows_of_batch()[0]
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.processes > 1:
            loss = self.accelerator.reduce(loss, "mean")
        self.update_loss = self.update_loss + loss
        self.update_rows += rows
        return loss


class Recorder(TrainerCallback):
    """Keeps the scores of each epoch as rows, passes events on, and ends the training when asked to stop."""

    def __init__(self, on_event: Listener | None, stop: StopSignal | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.epoch_scores: dict[str, float] = {}
        self.unfinished: list[dict[str, Any]] = []  # rows of an epoch whose validation sets are not all scored
        self.metrics: dict[str, float] = {}
        self.validation_loss = math.nan
        self.on_event, self.stop = on_event, stop
        self.trainer: PairedTrainer | None = None
        self.began = time.perf_counter()
        self.epoch_loss: float | torch.Tensor = 0.0
        self.epoch_rows = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_asked()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch_loss, self.epoch_rows = 0.0, 0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if round(state.epoch) == args.num_train_epochs:
            control.should_evaluate = True  # the last epoch counts, whether or not the others are scored

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_asked()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_asked()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._training()
        loss, rows = trainer.update_loss, trainer.update_rows
        trainer.update_loss, trainer.update_rows = 0.0, 0
        self.epoch_loss, self.epoch_rows = self.epoch_loss + loss * rows, self.epoch_rows + rows
        if self.on_event is not None:
            self._emit("step", state, {"loss": float(loss)})
        self._stop_if_asked()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = kwargs["metrics"]
        epoch, seconds = round(state.epoch), time.perf_counter() - self.began
        sets = list(self._training().validation)
        split = next(name for name in sets if f"eval_{name}_loss" in metrics)
        scores = {**self.metrics, "loss": self.validation_loss}
        table = [(split, metric, float(value)) for metric, value in scores.items()]
        if split == "validation":
            table.insert(0, ("train", "loss", float(self.epoch_loss) / self.epoch_rows))
            self.epoch_scores = scores
        self.unfinished += [
            {"epoch": epoch, "split": split, "metric": metric, "value": value, "seconds": seconds}
            for split, metric, value in table
        ]
        if split == sets[-1]:
            self.rows += self.unfinished
            self.unfinished = []
            self._emit("epoch", state, self.epoch_scores)

    def _training(self) -> PairedTrainer:
        assert self.trainer is not None, "callbacks are called while the trainer is at work"
        return self.trainer

    def _emit(self, kind: Any, state: Any, metrics: dict[str, float]) -> None:
        if self.on_event is not None:
            self.on_event(
                Event(kind, epoch=state.epoch, step=state.global_step, total_steps=state.max_steps, metrics=metrics)
            )

    def _stop_if_asked(self) -> None:
        give_way()  # between two batches other threads may have the generators
        if self.stop is not None and self.stop.is_set():
            raise Stopped


class KeptElements(TrainerCallback):
    """Gives some elements of parameters their first values again after each update.

    Weight decay and momentum move elements whose gradient is zero, too.

    Parameters
    ----------
    kept
        (parameter, its first values, mask of the elements to keep) for each.
    """

    def __init__(self, kept: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]]) -> None:
        self.kept = kept

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for parameter, first, mask in self.kept:
                device = parameter.device
                parameter.copy_(torch.where(mask.to(device), first.to(device), parameter))


def make_trainer(
    classifier: torch.nn.Module,
    task: Task,
    train: list[dict[str, Any]],
    validation: dict[str, list[dict[str, Any]]],
    collate: Any,
    *,
    arguments: dict[str, Any],
    group_by_length: bool,
    callbacks: Sequence[TrainerCallback],
    on_event: Listener | None,
    stop: StopSignal | None,
) -> tuple[PairedTrainer, Recorder]:
    """Return a trainer that is ready to train and the recorder that will hold its rows."""
    recorder = Recorder(on_event, stop)

    def score(outcome: Any) -> dict[str, float]:
        logits = np.asarray(outcome.predictions, dtype=np.float64)
        # of all rows together: the Trainer's is a mean of batches, which depends on how processes share them
        recorder.validation_loss = _mean_loss(task, torch.from_numpy(logits), torch.as_tensor(outcome.label_ids))
        labels = np.asarray(outcome.label_ids)
        if np.isfinite(logits).all():
            recorder.metrics = task.compute_metrics(logits, labels)
        else:
            recorder.metrics = dict.fromkeys(task.metrics, math.nan)  # the training has diverged
        if task.kind == "classification":
            recorder.metrics["calibration_error"] = calibration_error(logits, labels)
        return recorder.metrics

    settings = TrainingArguments(**arguments)
    if settings.n_gpu > 1:
        settings._n_gpu = 1  # DataParallel would multiply the batch size by the number of GPUs
    trainer = PairedTrainer(
        model=classifier,
        args=settings,
        train=train,
        validation=validation,
        data_collator=collate,
        compute_metrics=score,
        # encoder-decoders also return hidden states, which nobody needs to gather
        preprocess_logits_for_metrics=lambda logits, labels: logits[0] if isinstance(logits, tuple) else logits,
        callbacks=[recorder, *callbacks],
        group_by_length=group_by_length,
    )
    trainer.remove_callback(PrinterCallback)
    recorder.trainer = trainer
    return trainer, recorder


def _mean_loss(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> float:
    if task.kind == "regression":
        return float(torch.nn.functional.mse_loss(logits.squeeze(-1), labels.double().reshape(-1)))
    return float(torch.nn.functional.cross_entropy(logits, labels))
