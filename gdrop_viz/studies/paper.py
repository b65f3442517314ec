"""The paper's own protocol, beside the figures that its authors printed.

    python -m gdrop_viz paper --output paper-runs/

fine-tunes bert-base-uncased from the hub as Sharma et al. (COLM 2024, arXiv 2406.14005) did: the Fisher information of
its masked-language loss on simple-English Wikipedia; dropout falling from 10 % to 0 % with it; GLUE tasks with train
and validation rows pooled, shuffled by the seed and split 80/20; AdamW at 2e-5, batches of 18, 3 epochs, 512 tokens.
Added are what the paper lacks: several seeds, and the controls that tell "guided" from "less dropout". The learning
rate falls linearly to zero (what the authors' does is not known). Texts are padded to their batch's longest, which
changes only rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.files import file_stem
from gdrop_viz.finetuning.arms import GaussianArm
from gdrop_viz.finetuning.comparison import compare
from gdrop_viz.finetuning.encoding import length_limit
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.units import percent
from gdrop_viz.studies.whole import whole

if TYPE_CHECKING:
    import threading

    import pandas as pd

    from gdrop_viz.fisher import Fisher
    from gdrop_viz.models.pretrained import Pretrained

# guided dropout in the authors' table, in points: (task, share of the training data); printed without seeds or spread
PUBLISHED = {
    ("cola", 1.0): 60.96,
    ("mrpc", 1.0): 82.41,
    ("rte", 1.0): 68.77,
    ("stsb", 1.0): 88.13,
    ("cola", 0.5): 55.57,
    ("mrpc", 0.5): 80.46,
    ("rte", 0.5): 62.09,
    ("stsb", 0.5): 85.02,
}
TASKS = ("cola", "mrpc", "rte", "stsb")
TRAINING: dict[str, Any] = {"learning_rate": 2e-5, "batch_size": 18, "warmup": 0.0, "max_length": 512}
_SEQUENCE_LENGTH = 128
_WIKIPEDIA = ("wikimedia/wikipedia", "20231101.simple")


def paper_protocol(
    lm: Pretrained,
    fisher: Fisher,
    *,
    path: str | os.PathLike[str],
    tasks: Iterable[str] = TASKS,
    fractions: Sequence[float] = (1.0, 0.5),
    seeds: Iterable[int] = range(5),
    epochs: int = 3,
    n_train: int | None = None,
    n_validation: int | None = None,
    glue: str | os.PathLike[str] | None = None,
    stop: threading.Event | None = None,
    progress: bool = True,
) -> dict[str, Comparison]:
    """Fine-tune `lm` on GLUE tasks as the paper does, with its two arms and four controls.

    Parameters
    ----------
    lm, fisher
        The pretrained model and its Fisher information.
    path
        Folder for the finished runs; the same call goes on where it was stopped.
    tasks, fractions, seeds, epochs
        Names in GLUE without "glue/"; shares of the training data; each seed shuffles, splits and trains.
    n_train, n_validation
        Cut the tasks to this size, to try the protocol out.
    glue
        A hub id or local folder to take GLUE from.
    stop
        A `threading.Event` that ends the training when it is set.
    progress
        Whether to show bars.

    Returns
    -------
    dict
        Task -> comparison.

    Raises
    ------
    KeyboardInterrupt
        If a comparison was stopped; what is done is kept in `path`.
    """
    from gdrop_viz.dropout import guided_dropout
    from gdrop_viz.text.tasks import load_task

    guided = guided_dropout(lm.model, fisher, lower=0.0, upper=0.1)
    arms: dict[str, Any] = {
        "standard": 0.1,
        "guided": guided,
        "matched mean": guided.matched_uniform(),
        "reversed": guided.reversed(),
        "Gaussian": GaussianArm(0.1),
        "none": None,
    }
    seeds, results = list(seeds), {}
    for name in tasks:
        parts = []
        for seed in seeds:
            task = load_task(f"glue/{name}", resplit="pooled", seed=seed, source=glue)
            task = task.subset(n_train=n_train, n_validation=n_validation, seed=seed)
            part = compare(
                lm, task, arms, fractions=fractions, seeds=[seed], epochs=epochs, path=Path(path) / name, stop=stop,
                progress=progress, **TRAINING,
            )  # fmt: skip
            whole(part.metadata["complete"])
            parts.append(part)
        results[name] = Comparison.joined(parts)
    return results


def paper_fisher(
    lm: Pretrained,
    path: str | os.PathLike[str],
    *,
    text: str | None = None,
    n_sequences: int = 2400,
    stop: threading.Event | None = None,
    progress: bool = True,
) -> Fisher:
    """Return the Fisher information of `lm` that an earlier call kept in the folder `path`, or estimate and keep it.

    Parameters
    ----------
    lm
        The pretrained model.
    path
        Folder for the file.
    text
        A file or hub data set with text like the pretraining's; by default simple-English Wikipedia from the hub.
    n_sequences
        How many sequences of at most 128 tokens; 2400 are 1 % of that Wikipedia.
    stop
        A `threading.Event` that ends the estimation when it is set.
    progress
        Whether to show bars.

    Returns
    -------
    Fisher
        Means per tensor.

    Raises
    ------
    KeyboardInterrupt
        If the estimation was stopped.
    """
    from gdrop_viz.fisher import Fisher, fisher_information
    from gdrop_viz.text.batches import pretraining_batches

    file = Path(path) / f"fisher-{file_stem(lm.name)}-{n_sequences}.safetensors"
    if file.exists():
        return Fisher.load(file)
    texts, dataset_config = (text, None) if text else _WIKIPEDIA
    length = min(_SEQUENCE_LENGTH, length_limit(lm))
    batches = pretraining_batches(
        lm, texts, dataset_config=dataset_config, n_sequences=n_sequences, max_length=length, progress=progress
    )
    fisher = fisher_information(lm.model, batches, resolution="tensor", stop=stop, progress=progress)
    whole(fisher.n_sequences == batches.n_sequences)
    fisher.save(file)
    return fisher


def beside_published(results: dict[str, Comparison]) -> pd.DataFrame:
    """Return the authors' figures for guided dropout beside what was found here, in points.

    Returns
    -------
    DataFrame
        One row per task and fraction: task, fraction, metric, published, guided and standard (mean with 95 %
        interval), guided - standard and guided - matched mean (paired, with interval), p of both (sign-flip
        permutation test), seeds.
    """
    import pandas as pd

    rows = []
    for task, result in by_validation_set(results).items():
        summary = _by(result.summary(), "arm", "fraction")
        against = {arm: _by(result.paired("guided", arm), "fraction") for arm in ("standard", "matched mean")}
        for fraction in result.fractions:
            row: dict[str, Any] = {
                "task": task,
                "fraction": percent(fraction),
                "metric": result.metric,
                "published": PUBLISHED.get((task, fraction), float("nan")),
            }
            for arm in ("guided", "standard"):
                row[arm] = _with_interval(summary[arm, fraction])
            for arm, table in against.items():
                row[f"guided - {arm}"] = _with_interval(table[fraction])
                row[f"p ({arm})"] = table[fraction]["p"]
            row["seeds"] = int(summary["guided", fraction]["n"])
            rows.append(row)
    return pd.DataFrame(rows)


def by_validation_set(results: dict[str, Comparison]) -> dict[str, Comparison]:
    """Return the results with an entry more, "mnli (mismatched)", for each further validation set."""
    named = {}
    for task, result in results.items():
        for split in result.validation_sets:
            further = split.removeprefix("validation").strip("_")
            named[f"{task} ({further})" if further else task] = result.on(split)
    return named


def _by(table: pd.DataFrame, *columns: str) -> dict[Any, dict[Any, Any]]:
    """The rows of a table by what they are about."""
    return table.set_index(list(columns) if len(columns) > 1 else columns[0]).to_dict("index")


def _with_interval(row: dict[Any, Any]) -> str:
    return f"{100 * row['mean']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"
