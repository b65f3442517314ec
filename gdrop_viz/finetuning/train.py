"""One run: how is a pretrained model fine-tuned on a task with one arm, one data fraction and one seed?

The seed alone decides the training subset, the order of its batches and the head's first weights, whatever the arm, so
that two arms of one seed differ in nothing but what the arm does.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from gdrop_viz.base.checks import finite_weights, instance
from gdrop_viz.base.processes import n_processes, rank
from gdrop_viz.base.state import preserved_rng, preserved_switches
from gdrop_viz.finetuning.arms import Arm, WeightDecayArm, apply_arm, weight_decay_of
from gdrop_viz.finetuning.classifier import build_classifier
from gdrop_viz.finetuning.encoding import PaddedBatches, encode, length_limit
from gdrop_viz.finetuning.events import Listener, StopSignal
from gdrop_viz.finetuning.units import percent
from gdrop_viz.models.hub import quiet_libraries

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task

# the random generators belong to the process, so trainings in several threads (panels; Dask) take turns
_ONE_RUN_AT_A_TIME = threading.RLock()
_POLL_SECONDS = 0.1

COLUMNS = ("arm", "fraction", "seed", "epoch", "split", "metric", "value", "seconds")

# at the size of BERT-base and above, the learning rate of the BERT and GLUE papers; small models need larger steps
_LARGE = 50_000_000
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Hyperparameters:
    """What all arms of a comparison are trained with (AdamW, linear warm-up and linear decay to zero).

    Parameters
    ----------
    epochs
        Passes over the training subset.
    batch_size
        Sequences per update; under torchrun, of all processes together.
    learning_rate
        Peak of the schedule.
    warmup
        Share of all updates in which the learning rate rises from zero.
    weight_decay
        AdamW's decoupled decay, of all weights but biases and norms.
    max_length
        Longer texts are cut to this many tokens (or to what the model takes).
    padding
        "longest": to the longest of each batch; "max_length": every batch to `max_length`, as older scripts do.
    group_by_length
        Whether batches hold texts of similar length (the order stays random); else batches are drawn at random.
    evaluate
        "epoch": score the validation sets after each epoch; "end": only after the last one, which is what comparisons
        look at. On small training sets scoring costs more than training.
    training_arguments
        More arguments of `transformers.TrainingArguments`, such as {"bf16": True}.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 512
    padding: Literal["longest", "max_length"] = "longest"
    group_by_length: bool = True
    evaluate: Literal["epoch", "end"] = "epoch"
    training_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be a share of all updates in [0, 1), got {self.warmup!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay!r}")
        if self.padding not in ("longest", "max_length"):
            raise ValueError(f"padding must be 'longest' or 'max_length', got {self.padding!r}")
        if self.evaluate not in ("epoch", "end"):
            raise ValueError(f"evaluate must be 'epoch' or 'end', got {self.evaluate!r}")
        taken = sorted(self.training_arguments.keys() & _OWN_ARGUMENTS)
        if taken:
            raise ValueError(
                f"training_arguments must leave {', '.join(taken)} to gdrop_viz; use the keywords of this function"
            )

        try:
            json.dumps(dict(self.training_arguments))
        except TypeError as error:
            raise TypeError(f"training_arguments must hold plain values that JSON can store ({error})") from error

    def n_updates(self, n_examples: int) -> int:
        """Return how many updates of the weights a run on `n_examples` makes.

        >>> Hyperparameters(epochs=3, batch_size=16).n_updates(100)
        21
        """
        accumulation = int(self.training_arguments.get("gradient_accumulation_steps", 1))
        return self.epochs * math.ceil(math.ceil(n_examples / self.batch_size) / accumulation)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as JSON."""
        return asdict(self)


# set by this module; anything else may be handed on to the Trainer
_OWN_ARGUMENTS = {
    *("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "warmup_steps"),
    *("warmup_ratio", "weight_decay", "seed", "data_seed", "eval_strategy", "logging_strategy", "save_strategy"),
    *("report_to", "disable_tqdm", "log_level", "remove_unused_columns", "train_sampling_strategy"),
}


def default_learning_rate(lm: Pretrained) -> float:
    """Return 2e-5 for models from 50 million parameters up (the papers' rate), and 2e-4 for smaller ones.

    On bert-mini and 1,000 sentences of `sentiment`, 2e-4 gave the best accuracy of 5e-5, 1e-4, 2e-4 and 5e-4.
    """
    return 2e-5 if sum(parameter.numel() for parameter in lm.model.parameters()) >= _LARGE else 2e-4


def fine_tune(
    lm: Pretrained,
    task: Task,
    arm: Arm | WeightDecayArm,
    *,
    seed: int = 0,
    fraction: float = 1.0,
    epochs: int = 3,
    learning_rate: float | None = None,
    name: str | None = None,
    on_event: Listener | None = None,
    stop: StopSignal | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Fine-tune a classifier on top of `lm` with the Hugging Face `Trainer` and return its scores as a tidy table.

    `lm.model` is not changed. The random generators are given back as they were. They belong to the process: runs in
    several threads take turns, and another thread that draws from them meanwhile changes the dropout masks.

    Parameters
    ----------
    lm, task
        The pretrained model and the labelled task.
    arm
        A dropout rate for all sites, a `DropoutSchedule`, None (no dropout), `GaussianArm(rate)`,
        `WeightDecayArm(...)` or a callable that prepares the classifier.
    seed
        Decides the subset, the data order, the first weights of the head, and the dropout masks.
    fraction
        Share of the training data, in (0, 1].
    epochs, learning_rate, **settings
        See `Hyperparameters`; the learning rate is by default 2e-5, and 2e-4 below 50 million parameters.
    name
        The arm's name in the table; by default its repr.
    on_event
        Called with an `Event` at every step and epoch, in the thread that trains.
    stop
        A `threading.Event`; once set, training ends within one step and the finished epochs are returned.

    Returns
    -------
    DataFrame with one row per scored epoch, split and metric: the columns arm, fraction, seed, epoch, split ("train",
    "validation" and the task's further validation sets), metric, value, seconds (since the run began). The train split
    has only its mean loss in the epoch, with dropout on; the others have the loss and the task's metrics, without.

    Raises
    ------
    ValueError, TypeError
        For settings out of range, an arm that fits no such model, a fraction that leaves a class empty.

    >>> fine_tune(lm, task, 0.1, epochs=1)  # doctest: +SKIP
    """
    check_inputs(lm, task)
    hyperparameters = Hyperparameters(
        epochs=epochs, learning_rate=default_learning_rate(lm) if learning_rate is None else learning_rate, **settings
    )
    return table(
        run_rows(lm, task, arm, seed, fraction, hyperparameters, on_event=on_event, stop=stop),
        arm=repr(arm) if name is None else name,
        fraction=fraction,
        seed=seed,
    )


def check_inputs(lm: object, task: object) -> None:
    """Raise TypeError unless the two are a pretrained model with its tokenizer and a labelled task.

    ValueError, with the name of the parameter, if the model has weights that are not finite.
    """
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task

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


def table(rows: list[dict[str, Any]], **key: Any) -> pd.DataFrame:
    """Return rows of one run as a tidy DataFrame with the run's arm, fraction and seed."""
    import pandas as pd

    return pd.DataFrame([{**key, **row} for row in rows], columns=list(COLUMNS))


def run_rows(
    lm: Pretrained,
    task: Task,
    arm: Arm | WeightDecayArm,
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
            f"batch_size is what all {n_processes()} processes take together, so it must be a multiple of their "
            f"number, got {hyperparameters.batch_size}"
        )
    train = encode(lm, training_subset(task, fraction, seed), max_length=hyperparameters.max_length)
    # similar lengths side by side waste no padding; the metrics do not depend on the order
    validation = {
        name: sorted(encode(lm, data, max_length=hyperparameters.max_length), key=lambda row: len(row["input_ids"]))
        for name, data in {"validation": task.validation, **task.more_validation}.items()
    }
    fixed = min(hyperparameters.max_length, length_limit(lm)) if hyperparameters.padding == "max_length" else None
    with (
        my_turn(stop) as mine,
        tempfile.TemporaryDirectory() as scratch,
        preserved_rng(seed),
        preserved_switches() as set_up,
    ):
        if not mine:
            return []
        classifier = build_classifier(lm, task, seed=seed)
        # `compare` tries each arm first: what an arm has to say (Gaussian noise in attention) is said then, once
        with quiet_libraries():
            from gdrop_viz.finetuning._trainer import Stopped, make_trainer

            apply_arm(arm, classifier)
            try:
                trainer, recorder = make_trainer(
                    classifier,
                    task,
                    train,
                    validation,
                    PaddedBatches(lm, fixed_length=fixed, regression=task.kind == "regression"),
                    arguments=_training_arguments(hyperparameters, arm, seed, scratch),
                    group_by_length=hyperparameters.group_by_length,
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
def my_turn(stop: StopSignal | None) -> Iterator[bool]:
    """Wait until no other thread of this process trains; yields False if asked to stop before that."""
    while not _ONE_RUN_AT_A_TIME.acquire(timeout=_POLL_SECONDS):
        if stop is not None and stop.is_set():
            yield False
            return
    try:
        yield True
    finally:
        _ONE_RUN_AT_A_TIME.release()


def _training_arguments(
    hyperparameters: Hyperparameters, arm: Arm | WeightDecayArm, seed: int, folder: str
) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "num_train_epochs": hyperparameters.epochs,
        "per_device_train_batch_size": hyperparameters.batch_size // n_processes(),
        "per_device_eval_batch_size": max(_EVALUATION_BATCH, hyperparameters.batch_size),
        "learning_rate": hyperparameters.learning_rate,
        "warmup_steps": hyperparameters.warmup,  # below 1 it is a share
        "weight_decay": weight_decay_of(arm, hyperparameters.weight_decay),
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
