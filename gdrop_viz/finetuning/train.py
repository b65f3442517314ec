"""One fine-tuning run: a pretrained model on a task with one arm, one data fraction and one seed.

The seed alone decides the training subset, the order of its batches and the head's first weights, whatever the arm, so
that two arms of one seed differ in nothing but what the arm does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch

from gdrop_viz.base.checks import finite_weights, instance
from gdrop_viz.base.locks import GENERATORS, TurnLock
from gdrop_viz.base.processes import meet, n_processes, rank
from gdrop_viz.base.state import preserved_rng, preserved_switches
from gdrop_viz.finetuning.arms import Arm, ResolvedArm, resolve_arm
from gdrop_viz.finetuning.classifier import build_classifier
from gdrop_viz.finetuning.encoding import PaddedBatches, encode, length_limit
from gdrop_viz.finetuning.events import Listener, StopSignal
from gdrop_viz.finetuning.hyperparameters import Hyperparameters, default_learning_rate
from gdrop_viz.finetuning.run_table import run_table
from gdrop_viz.finetuning.units import percent
from gdrop_viz.models.hub import quiet_libraries
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.text.tasks import Task

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

# trainings in several threads (panels; Dask) take turns
_ONE_RUN_AT_A_TIME = TurnLock()
_EVALUATION_BATCH = 64


def fine_tune(
    lm: Pretrained,
    task: Task,
    arm: Arm,
    *,
    seed: int = 0,
    fraction: float = 1.0,
    epochs: int = 3,
    batch_size: int = 16,
    learning_rate: float | None = None,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    max_length: int = 512,
    padding: Literal["longest", "max_length"] = "longest",
    group_by_length: bool = True,
    evaluate: Literal["epoch", "end"] = "epoch",
    training_arguments: Mapping[str, Any] | None = None,
    name: str | None = None,
    on_event: Listener | None = None,
    stop: StopSignal | None = None,
) -> pd.DataFrame:
    """Fine-tune a classifier on top of `lm` with the Hugging Face `Trainer` and return its scores as a tidy table.

    `lm.model` is not changed. The random generators are given back as they were. They belong to the process: runs in
    several threads take turns, and other calls of this package get them between two batches and give them back. Code of
    your own that draws from them in another thread meanwhile changes the dropout masks.

    Parameters
    ----------
    lm, task
        The pretrained model and the labelled task.
    arm
        A dropout rate for all sites, a `DropoutSchedule`, None (no dropout), `GaussianArm(rate)`, `WeightDecayArm`,
        `EWCArm`, `SparseArm`, `FrozenArm`, `MixoutArm`, or a callable that prepares the classifier. A callable may
        have a method `callbacks(classifier)` that returns `transformers.TrainerCallback`s.
    seed
        Decides the subset, the data order, the first weights of the head, and the dropout masks.
    fraction
        Share of the training data, in (0, 1].
    epochs, batch_size, learning_rate, warmup, weight_decay, max_length, padding, group_by_length, evaluate,
    training_arguments
        See `Hyperparameters`; the learning rate is by default 2e-5, and 2e-4 below 50 million parameters.
    name
        The arm's name in the table; by default its repr.
    on_event
        Called with an `Event` at every step and epoch, in the thread that trains.
    stop
        A `threading.Event`; once set, training ends within one step and the finished epochs are returned.

    Returns
    -------
    DataFrame
        One row per scored epoch, split and metric: the columns arm, fraction, seed, epoch, split ("train",
        "validation" and the task's further validation sets), metric, value, seconds (since the run began). The train
        split has only its mean loss in the epoch, with dropout on; the others have, without, the task's metrics, the
        calibration error of a classifier, and the loss (the log-loss of a classifier, in nats).

    Raises
    ------
    ValueError, TypeError
        For settings out of range, an arm that fits no such model, a fraction that leaves a class empty.

    >>> fine_tune(lm, task, 0.1, epochs=1)  # doctest: +SKIP
    """
    check_inputs(lm, task)
    hyperparameters = Hyperparameters(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=default_learning_rate(lm) if learning_rate is None else learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        max_length=max_length,
        padding=padding,
        group_by_length=group_by_length,
        evaluate=evaluate,
        training_arguments=dict(training_arguments or {}),
    )
    key = {"arm": repr(arm) if name is None else name, "fraction": fraction, "seed": seed}
    rows = run_rows(lm, task, arm, seed, fraction, hyperparameters, on_event=on_event, stop=stop)
    return run_table([{**key, **row} for row in rows])


def check_inputs(lm: Pretrained, task: Task) -> None:
    """Raise TypeError unless the two are a pretrained model with its tokenizer and a labelled task.

    ValueError, with the name of the parameter, if the model has weights that are not finite.
    """
    instance(lm, Pretrained, "lm", "load_pretrained")
    instance(task, Task, "task", "load_task")
    finite_weights(lm.model.named_parameters())


def training_subset(task: Task, fraction: float, seed: int) -> Dataset:
    """Return the training rows of a run; raises ValueError if the fraction is out of range or lacks a class."""
    rows = task.fraction(fraction, seed).train
    missing = set(task.train["label"]) - set(rows["label"]) if task.kind == "classification" else ()
    if missing:
        raise ValueError(
            f"{percent(fraction)} of the {len(task.train)} training examples of {task.name} hold no example of class "
            f"{', '.join(map(str, sorted(missing)))} (seed {seed}); take a larger fraction"
        )
    return rows


def run_rows(
    lm: Pretrained,
    task: Task,
    arm: Arm | ResolvedArm,
    seed: int,
    fraction: float,
    hyperparameters: Hyperparameters,
    *,
    on_event: Listener | None = None,
    stop: StopSignal | None = None,
) -> list[dict[str, Any]]:
    """Train and return one dict per epoch, split and metric; only the finished epochs if it was stopped.

    Under torchrun or accelerate launch the processes share each batch, and all return the same rows.
    """
    if hyperparameters.batch_size % n_processes():
        raise ValueError(
            f"expected batch_size, which all {n_processes()} processes take together, as a multiple of their number, "
            f"got {hyperparameters.batch_size}"
        )
    meet("fine_tune or compare")
    train = encode(lm, training_subset(task, fraction, seed), max_length=hyperparameters.max_length)
    # similar lengths side by side waste no padding; the metrics do not depend on the order
    validation = {
        name: sorted(encode(lm, data, max_length=hyperparameters.max_length), key=lambda row: len(row["input_ids"]))
        for name, data in {"validation": task.validation, **task.more_validation}.items()
    }
    fixed = min(hyperparameters.max_length, length_limit(lm)) if hyperparameters.padding == "max_length" else None
    with (
        _my_turn(stop) as admitted,
        tempfile.TemporaryDirectory() as scratch,
        preserved_rng(seed) if admitted else nullcontext(),
        preserved_switches() as set_up,
    ):
        if not admitted:
            return []
        classifier = build_classifier(lm, task, seed=seed)
        # `compare` tries each arm first: what an arm has to say (Gaussian noise in attention) is said then, once
        with quiet_libraries():
            from gdrop_viz.finetuning.trainer import Stopped, make_trainer

            resolved = resolve_arm(arm, classifier)
            resolved.prepare(classifier)
            try:
                trainer, recorder = make_trainer(
                    classifier,
                    task,
                    train,
                    validation,
                    PaddedBatches(lm, fixed_length=fixed, regression=task.kind == "regression"),
                    arguments=_training_arguments(hyperparameters, seed, scratch) | dict(resolved.training_arguments),
                    group_by_length=hyperparameters.group_by_length,
                    callbacks=resolved.new_callbacks(classifier),
                    on_event=on_event,
                    stop=stop,
                )
            finally:
                set_up()
        # all before drew numbers, each arm its own; the dropout masks must depend on the seed alone
        torch.manual_seed(seed + 1_000_003 * rank())  # each process masks its own rows
        try:
            trainer.train()
        except Stopped:
            pass
        finally:
            recorder.trainer = None  # the two hold each other, and the trainer holds the model's memory
        return recorder.rows


@contextmanager
def _my_turn(stop: StopSignal | None) -> Iterator[bool]:
    """Wait until no other thread trains or has the random generators; yields False if asked to stop before that.

    The generators alone would not do: a training lends them out between two batches, and another one must not begin
    then, since the Trainer's switches belong to the process too.
    """
    asked = None if stop is None else stop.is_set
    with ExitStack() as stack:
        for lock in (_ONE_RUN_AT_A_TIME, GENERATORS):
            if not lock.acquire(cancelled=asked):
                yield False
                return
            stack.callback(lock.release)
        yield True


def _training_arguments(hyperparameters: Hyperparameters, seed: int, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "num_train_epochs": hyperparameters.epochs,
        "per_device_train_batch_size": hyperparameters.batch_size // n_processes(),
        "per_device_eval_batch_size": max(_EVALUATION_BATCH, hyperparameters.batch_size),
        "learning_rate": hyperparameters.learning_rate,
        "warmup_steps": hyperparameters.warmup,  # below 1 it is a share
        "weight_decay": hyperparameters.weight_decay,
        "seed": seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # without a GPU the Trainer joins the other processes of a launcher only if told to use the CPU
        "use_cpu": n_processes() > 1 and not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "eval_strategy": "epoch" if hyperparameters.evaluate == "epoch" else "no",  # then the recorder asks for it
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "critical",
        "logging_nan_inf_filter": False,  # a diverged run must look like one
        **hyperparameters.training_arguments,
    }
