"""Which arm fine-tunes best? Arms x data fractions x seeds, each run kept at once and never repeated."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import numpy as np

from gdrop_viz.base.state import limited_threads, preserved_rng
from gdrop_viz.finetuning.arms import Arm, WeightDecayArm, apply_arm, describe_arm, mean_rate
from gdrop_viz.finetuning.classifier import build_classifier, pretrained_digest
from gdrop_viz.finetuning.events import Listener, StopSignal
from gdrop_viz.finetuning.ledger import Ledger, Run
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.spread import spread
from gdrop_viz.finetuning.store import RunStore
from gdrop_viz.finetuning.train import Hyperparameters, check_inputs, default_learning_rate, run_rows, training_subset

if TYPE_CHECKING:
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task


def compare(
    lm: Pretrained,
    task: Task,
    arms: Mapping[str, Arm | WeightDecayArm],
    *,
    fractions: Iterable[float] = (1.0,),
    seeds: Iterable[int] = range(5),
    epochs: int = 3,
    learning_rate: float | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    on_event: Listener | None = None,
    stop: StopSignal | None = None,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Fine-tune `lm` on `task` with every arm, data fraction and seed, and return the comparison.

    The runs of one seed share training subset, order of batches and first weights of the head, whatever the arm.
    `lm` is left as it was. The runs go seed by seed, so that after a stop every arm has been run about equally often.

    Parameters
    ----------
    lm, task
        The pretrained model and the labelled task.
    arms
        Name -> dropout rate for all sites of the backbone, `DropoutSchedule`, None (no dropout), `GaussianArm(rate)`,
        `WeightDecayArm(...)`, or a callable that prepares the classifier (called on a copy first, to check it).
    fractions
        Shares of the training data, in (0, 1]. The seed chooses which examples; smaller shares lie inside larger ones.
    seeds
        Different whole numbers. At least 6 are needed before the permutation test can reach p = 0.05.
    epochs, learning_rate, **settings
        See `gdrop_viz.finetuning.Hyperparameters`. The learning rate is by default 2e-5, and 2e-4 below 50 million
        parameters.
    path
        Folder for the finished runs, one JSON file each, named by a fingerprint of everything that determines it
        (weights, task, arm, fraction, seed, hyperparameters). A run found there is not repeated, so a comparison can
        be stopped, resumed and extended; other settings never mix in.
    executor
        A `concurrent.futures.Executor` of processes (started with "spawn") or `dask.distributed.Client.get_executor()`.
        The numbers are those of runs in this process with the same `threads`.
    threads
        CPU threads of torch for each run; by default as many as torch uses here. With a pool on one machine,
        give cores / workers.
    on_event
        Called with an `Event`. Runs in other processes report their epochs when they end, and no steps.
    stop
        A `threading.Event`. Once it is set, training ends within one step; finished runs are kept and returned.
    progress
        Whether to show a bar with the runs, the updates per second and the remaining time.

    Raises
    ------
    ValueError, TypeError
        Before any training: weights that are not finite, no or unknown arms, a schedule of another model, fractions or
        seeds out of range or twice, a fraction that leaves a class empty, settings out of range, a damaged file in
        `path`.
    RuntimeError, OSError
        Before any training: another comparison is at work in `path`, or nothing can be written there.

    >>> result = compare(lm, task, {"standard": 0.1, "none": None}, seeds=range(10), path="runs/")  # doctest: +SKIP
    >>> print(result.verdict("none", "standard"))  # doctest: +SKIP
    """
    check_inputs(lm, task)
    fractions, seeds = _checked_fractions(fractions), _checked_seeds(seeds)
    if learning_rate is None:
        learning_rate = default_learning_rate(lm)
    hyperparameters = Hyperparameters(epochs=epochs, learning_rate=learning_rate, **settings)
    descriptions = _checked_arms(arms, lm, task)
    subsets = {(fraction, seed): training_subset(task, fraction, seed) for fraction in fractions for seed in seeds}
    common = {
        "model": pretrained_digest(lm),
        "task": _task_checksum(task),
        "hyperparameters": hyperparameters.to_dict(),
    }
    runs = [
        Run(
            arm,
            fraction,
            seed,
            {"common": common, "arm": descriptions[arm], "fraction": fraction, "seed": seed},
            hyperparameters.n_updates(len(subsets[fraction, seed])),
        )
        for seed in seeds
        for fraction in fractions
        for arm in arms
    ]
    metadata = {
        "model": lm.name,
        "task": task.name,
        "n_train": len(task.train),
        "n_validation": len(task.validation),
        "fractions": fractions,
        "seeds": seeds,
        **hyperparameters.to_dict(),
        "mean_rates": {
            arm: None if math.isnan(rate := mean_rate(description)) else rate
            for arm, description in descriptions.items()
        },
    }
    store = RunStore.open(path)
    told = {"metric": task.metrics[0], "on_event": on_event, "progress": progress}
    with store.held(), limited_threads(threads), Ledger(runs, store, metadata, **told) as ledger:
        if executor is not None:
            spread(executor, ledger, lm, task, arms, hyperparameters, stop=stop)
        else:
            for run in ledger.unfinished():
                ledger.start(run)
                listener = ledger.listener(run)
                rows = run_rows(
                    lm, task, arms[run.arm], run.seed, run.fraction, hyperparameters, on_event=listener, stop=stop
                )
                if not ledger.finish(run, rows):
                    break
    return ledger.comparison()


def _task_checksum(task: Task) -> str:
    """Return a sha256 of what the runs see of a task: kind, metrics, training and validation rows."""
    digest = hashlib.sha256(json.dumps([task.kind, task.n_labels, task.metrics]).encode())
    for name, rows in {"train": task.train, "validation": task.validation, **task.more_validation}.items():
        columns = {
            column: list(rows[column]) for column in ("text", "text_pair", "label") if column in rows.column_names
        }
        digest.update(json.dumps([name, columns]).encode())
    return digest.hexdigest()


def _checked_arms(arms: object, lm: Pretrained, task: Task) -> dict[str, dict[str, Any]]:
    """Try every arm on a classifier and return the descriptions that determine them."""
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError(f"arms must map names to arms, such as {{'standard': 0.1, 'guided': schedule}}, got {arms!r}")
    classifier = build_classifier(lm, task)
    descriptions = {}
    for name, arm in arms.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of an arm must be a non-empty text, got {name!r}")
        try:
            with preserved_rng():
                apply_arm(arm, copy.deepcopy(classifier))
            descriptions[name] = describe_arm(arm, classifier)
        except (TypeError, ValueError) as error:
            raise type(error)(f"arm {name!r}: {error}") from error
    return descriptions


def _checked_fractions(fractions: Iterable[float]) -> list[float]:
    values = [fractions] if isinstance(fractions, (int, float)) else list(fractions)
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, (int, float))]
    if wrong or not values or not all(0 < value <= 1 for value in values):
        raise ValueError(f"fractions must be shares of the training data in (0, 1], at least one, got {values}")
    return _without_repeats([float(value) for value in values], "fractions")


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    values = [seeds] if isinstance(seeds, int) else list(seeds)
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, (int, np.integer))]
    if wrong or not values or not all(0 <= value < 2**32 for value in values):
        raise ValueError(f"seeds must be whole numbers from 0 to 2^32 - 1, at least one, got {values}")
    return _without_repeats([int(value) for value in values], "seeds")


def _without_repeats(values: list[Any], what: str) -> list[Any]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{what} must differ from each other, but {', '.join(map(str, repeated))} came more than once")
    return values
