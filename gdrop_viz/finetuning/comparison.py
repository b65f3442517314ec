"""Comparison of arms: arms x data fractions x seeds, each run kept at once and never repeated."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal

from gdrop_viz.base.checks import number, whole
from gdrop_viz.base.digest import digest
from gdrop_viz.base.state import limited_threads, preserved_rng
from gdrop_viz.finetuning.arms import Arm, ResolvedArm, resolve_arm
from gdrop_viz.finetuning.classifier import build_classifier, pretrained_digest
from gdrop_viz.finetuning.events import Listener, StopSignal
from gdrop_viz.finetuning.hyperparameters import Hyperparameters, default_learning_rate
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.spread import spread
from gdrop_viz.finetuning.store import RunStore
from gdrop_viz.finetuning.tracker import Run, RunTracker
from gdrop_viz.finetuning.train import check_inputs, run_rows, training_subset
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.text.tasks import Task

# those whose new versions change numbers
_LIBRARIES = ("torch", "transformers", "tokenizers")


def compare(
    lm: Pretrained,
    task: Task,
    arms: Mapping[str, Arm],
    *,
    fractions: Iterable[float] = (1.0,),
    seeds: Iterable[int] = range(6),
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
    path: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    on_event: Listener | None = None,
    stop: StopSignal | None = None,
    progress: bool = True,
    version: str | None = None,
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
        `WeightDecayArm`, `EWCArm`, `SparseArm`, `FrozenArm`, `MixoutArm`, or a callable that prepares the classifier
        (called on a copy first, to check it). A callable may have a method `callbacks(classifier)` that returns
        `transformers.TrainerCallback`s.
    fractions
        Shares of the training data, in (0, 1]. The seed chooses which examples; smaller shares lie inside larger ones.
    seeds
        Different whole numbers. The verdict can find a difference from 6 on with one fraction, from 7 on with two, from
        8 on with three or four; see `Comparison.seeds_needed`.
    epochs, batch_size, learning_rate, warmup, weight_decay, max_length, padding, group_by_length, evaluate,
    training_arguments
        See `gdrop_viz.finetuning.Hyperparameters`. The learning rate is by default 2e-5, and 2e-4 below 50 million
        parameters.
    path
        Folder for the finished runs, one JSON file each, named by a fingerprint of everything that determines it
        (weights, tokenizer, task, arm, fraction, seed, hyperparameters, versions of the libraries). A run found there
        is not repeated, so a comparison can be stopped, resumed and extended; other settings never mix in.
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

    version
        Stands for the content of arms whose code or objects cannot be read (an open file, a lock): change it whenever
        they change. Other arms are known by what they do.

    Returns
    -------
    Comparison
        With the runs that are finished.

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
    resolved = _resolved_arms(arms, lm, task, version)
    steps = {
        (fraction, seed): hyperparameters.n_updates(len(training_subset(task, fraction, seed)))
        for fraction in fractions
        for seed in seeds
    }
    common = {
        "model": pretrained_digest(lm),
        "task": _task_digest(task),
        "hyperparameters": hyperparameters.to_dict(),
        "libraries": {name: importlib.metadata.version(name).split("+")[0] for name in _LIBRARIES},
    }
    runs = [
        Run(
            name,
            fraction,
            seed,
            {"common": common, "arm": arm.description, "fraction": fraction, "seed": seed},
            steps[fraction, seed],
        )
        for seed in seeds
        for fraction in fractions
        for name, arm in resolved.items()
    ]
    metadata = {
        "model": lm.name,
        "task": task.name,
        "n_train": len(task.train),
        "n_validation": len(task.validation),
        "fractions": fractions,
        "seeds": seeds,
        **hyperparameters.to_dict(),
        "mean_rates": {name: None if math.isnan(arm.mean_rate) else arm.mean_rate for name, arm in resolved.items()},
    }
    store = RunStore.open(path)
    with (
        store.locked(),
        limited_threads(threads),
        RunTracker(runs, store, metadata, metric=task.metrics[0], on_event=on_event, progress=progress) as tracker,
    ):
        if executor is not None:
            spread(executor, tracker, lm, task, resolved, hyperparameters, stop=stop)
        else:
            for run in tracker.unfinished():
                tracker.start(run)
                listener = tracker.listener(run)
                rows = run_rows(
                    lm, task, resolved[run.arm], run.seed, run.fraction, hyperparameters, on_event=listener, stop=stop
                )
                if not tracker.finish(run, rows):
                    break
    return tracker.comparison()


def _task_digest(task: Task) -> str:
    """Return a digest of what the runs see of a task: class, kind, metrics, training and validation rows."""
    rows = {
        name: {column: list(data[column]) for column in ("text", "text_pair", "label") if column in data.column_names}
        for name, data in task.splits.items()
        if name != "test"
    }
    return digest(type(task), task.kind, task.n_labels, task.metrics, rows)


def _resolved_arms(arms: Mapping[str, Arm], lm: Pretrained, task: Task, version: str | None) -> dict[str, ResolvedArm]:
    """Return what every arm is and does, after trying it on a classifier."""
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError(
            "expected arms as a mapping of names to arms, such as {'standard': 0.1, 'guided': schedule}, "
            f"got {arms!r}"
        )
    classifier = build_classifier(lm, task)
    resolved = {}
    for name, arm in arms.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"expected the name of an arm as a non-empty text, got {name!r}")
        try:
            resolved[name] = resolve_arm(arm, classifier, version=version)
            with preserved_rng():
                trial = copy.deepcopy(classifier)
                resolved[name].prepare(trial)
                resolved[name].new_callbacks(trial)
        except (TypeError, ValueError) as error:
            raise type(error)(f"arm {name!r}: {error}") from error
    return resolved


def _checked_fractions(fractions: Iterable[float]) -> list[float]:
    values = [fractions] if isinstance(fractions, numbers.Real) else list(fractions)
    checked = [number(value, "each of fractions", above=0, most=1) for value in values]
    return _different(checked, "fractions")


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    values = [seeds] if isinstance(seeds, numbers.Integral) else list(seeds)
    return _different([whole(value, "each of seeds", least=0, most=2**32 - 1) for value in values], "seeds")


def _different(values: list[Any], what: str) -> list[Any]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated or not values:
        found = f"{', '.join(map(str, repeated))} more than once" if repeated else "none"
        raise ValueError(f"expected {what} that differ from each other, at least one, got {found}")
    return values
