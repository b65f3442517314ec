"""Hyperparameters of a fine-tuning run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gdrop_viz.base.checks import number, one_of, whole

if TYPE_CHECKING:
    from gdrop_viz.models.pretrained import Pretrained

# at the size of BERT-base and above, the learning rate of the BERT and GLUE papers; small models need larger steps
_LARGE = 50_000_000

# set by this package; anything else may be handed on to the Trainer
_OWN_ARGUMENTS = {
    *("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "warmup_steps"),
    *("warmup_ratio", "weight_decay", "seed", "data_seed", "eval_strategy", "logging_strategy", "save_strategy"),
    *("report_to", "disable_tqdm", "log_level", "remove_unused_columns", "train_sampling_strategy"),
}


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

    Raises
    ------
    ValueError, TypeError
        For a setting out of range, or `training_arguments` that JSON cannot hold.

    >>> Hyperparameters(epochs=0)
    Traceback (most recent call last):
    ValueError: expected epochs as a whole number of at least 1, got 0
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
        whole(self.epochs, "epochs")
        whole(self.batch_size, "batch_size")
        whole(self.max_length, "max_length")
        number(self.learning_rate, "learning_rate", above=0)
        number(self.warmup, "warmup", least=0, below=1)
        number(self.weight_decay, "weight_decay", least=0)
        one_of(self.padding, ("longest", "max_length"), "padding")
        one_of(self.evaluate, ("epoch", "end"), "evaluate")
        if taken := sorted(self.training_arguments.keys() & _OWN_ARGUMENTS):
            raise ValueError(
                f"expected training_arguments without {', '.join(taken)}, which gdrop_viz sets; use the keywords of "
                "this function"
            )
        try:
            json.dumps(dict(self.training_arguments))
        except TypeError as error:
            raise TypeError(f"expected training_arguments of plain values that JSON can store, but {error}") from error

    def n_updates(self, n_examples: int) -> int:
        """Return how many updates of the weights a run on `n_examples` makes.

        >>> Hyperparameters(epochs=3, batch_size=16).n_updates(100)
        21
        """
        accumulation = int(self.training_arguments.get("gradient_accumulation_steps", 1))
        return self.epochs * math.ceil(math.ceil(n_examples / self.batch_size) / accumulation)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, as JSON."""
        return asdict(self)


def default_learning_rate(lm: Pretrained) -> float:
    """Return 2e-5 for models from 50 million parameters up (the papers' rate), and 2e-4 for smaller ones.

    On bert-mini and 1,000 sentences of `sentiment`, 2e-4 gave the best accuracy of 5e-5, 1e-4, 2e-4 and 5e-4.
    """
    return 2e-5 if sum(parameter.numel() for parameter in lm.model.parameters()) >= _LARGE else 2e-4
