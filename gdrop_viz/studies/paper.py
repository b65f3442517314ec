"""What does the paper's own protocol give here, beside the figures that its authors printed?

    python -m gdrop_viz.studies.paper --path paper-runs/

fine-tunes bert-base-uncased from the hub as Sharma et al. (COLM 2024, arXiv 2406.14005) did: the Fisher information of
its masked-language loss on simple-English Wikipedia; dropout falling from 10 % to 0 % with it; GLUE tasks with train
and validation rows pooled, shuffled by the seed and split 80/20; AdamW at 2e-5, batches of 18, 3 epochs, 512 tokens.
Added are what the paper lacks: several seeds, and the controls that tell "guided" from "less dropout". The learning
rate falls linearly to zero (what the authors' does is not known). Texts are padded to their batch's longest, which
changes only rounding. Finished runs are kept in the folder: the same command goes on where it was stopped.

Without a network, `--model`, `--glue` (a folder in the layout of the hub's "nyu-mll/glue") and `--texts` may be local.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.finetuning.arms import GaussianArm
from gdrop_viz.finetuning.comparison import compare
from gdrop_viz.finetuning.encoding import length_limit
from gdrop_viz.finetuning.result import Comparison
from gdrop_viz.finetuning.units import percent

if TYPE_CHECKING:
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
TRAINING = {"learning_rate": 2e-5, "batch_size": 18, "warmup": 0.0, "max_length": 512}
_SEQUENCE_LENGTH = 128
WIKIPEDIA = {"texts": "wikimedia/wikipedia", "dataset_config": "20231101.simple"}


def paper_protocol(
    lm: Pretrained,
    fisher: Fisher,
    *,
    path: str | os.PathLike[str],
    tasks: Iterable[str] = TASKS,
    fractions: Sequence[float] = (1.0, 0.5),
    seeds: Sequence[int] = range(5),
    epochs: int = 3,
    n_train: int | None = None,
    n_validation: int | None = None,
    glue: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> dict[str, Comparison]:
    """Fine-tune `lm` on GLUE tasks as the paper does, with its two arms and four controls; return task -> comparison.

    Parameters
    ----------
    lm, fisher
        The pretrained model and its Fisher information.
    path
        Folder for the finished runs.
    tasks, fractions, seeds, epochs
        Names in GLUE without "glue/"; shares of the training data; each seed shuffles, splits and trains.
    n_train, n_validation
        Cut the tasks to this size, to try the command out.
    glue
        A hub id or local folder to take GLUE from.
    **settings
        More keyword arguments of `compare`.
    """
    from gdrop_viz.dropout import guided_dropout
    from gdrop_viz.text.tasks import load_task

    guided = guided_dropout(lm.model, fisher, lower=0.0, upper=0.1)
    arms = {
        "standard": 0.1,
        "guided": guided,
        "matched mean": guided.matched_uniform(),
        "reversed": guided.reversed(),
        "Gaussian": GaussianArm(0.1),
        "none": None,
    }
    results = {}
    for name in tasks:
        parts = []
        for seed in seeds:
            task = load_task(f"glue/{name}", resplit="pooled", seed=seed, source=glue)
            task = task.subset(n_train=n_train, n_validation=n_validation, seed=seed)
            options = {"fractions": fractions, "seeds": [seed], "epochs": epochs, "path": Path(path) / name}
            parts.append(compare(lm, task, arms, **{**TRAINING, **options, **settings}))
        results[name] = Comparison.joined(parts)
    return results


def beside_published(results: dict[str, Comparison]) -> pd.DataFrame:
    """Return one row per task and fraction: the authors' figure for guided dropout, and what was found here, in points.

    Columns: task, fraction, metric, published, guided and standard (mean with 95 % interval), guided - standard and
    guided - matched mean (paired, with interval), p of both (sign-flip permutation test), seeds.
    """
    import pandas as pd

    rows = []
    for task, result in by_validation_set(results).items():
        summary = result.summary().set_index(["arm", "fraction"])
        against = {arm: result.paired("guided", arm).set_index("fraction") for arm in ("standard", "matched mean")}
        for fraction in result.fractions:
            row = {
                "task": task,
                "fraction": percent(fraction),
                "metric": result.metric,
                "published": PUBLISHED.get((task, fraction), float("nan")),
            }
            for arm in ("guided", "standard"):
                row[arm] = _with_interval(summary.loc[(arm, fraction)])
            for arm, table in against.items():
                row[f"guided - {arm}"] = _with_interval(table.loc[fraction])
                row[f"p ({arm})"] = table.loc[fraction, "p"]
            row["seeds"] = int(summary.loc[("guided", fraction), "n"])
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate the Fisher information, train, print the table and the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m gdrop_viz.studies.paper", description=__doc__.partition("\n")[0])
    parser.add_argument("--path", required=True, help="folder for the Fisher information and the finished runs")
    parser.add_argument("--model", default="bert-base-uncased", help="hub id, local folder or bundled model")
    parser.add_argument("--glue", help="hub id or local folder of GLUE")
    parser.add_argument("--texts", help="file with pretraining text; by default simple-English Wikipedia from the hub")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--fractions", nargs="+", type=float, default=[1.0, 0.5])
    parser.add_argument("--seeds", type=int, default=5, help="how many; at least 6 for a test at 5 %%")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--sequences", type=int, default=2400, help="for the Fisher information; 1 %% of that Wikipedia"
    )
    parser.add_argument("--n-train", type=int, help="cut the tasks to so many training rows, to try the command out")
    parser.add_argument("--n-validation", type=int, help="the same for validation rows")
    options = parser.parse_args(arguments)

    from gdrop_viz.models.pretrained import load_pretrained

    lm = load_pretrained(options.model)
    results = paper_protocol(
        lm,
        _fisher(lm, Path(options.path), options.texts, options.sequences),
        path=options.path,
        tasks=options.tasks,
        fractions=options.fractions,
        seeds=range(options.seeds),
        epochs=options.epochs,
        n_train=options.n_train,
        n_validation=options.n_validation,
        glue=options.glue,
    )
    print(beside_published(results).to_string(index=False))
    for task, result in by_validation_set(results).items():
        for arm in ("standard", "matched mean"):
            for line in result.verdict("guided", arm).splitlines():
                print(f"{task}: {line}")


def _fisher(lm: Pretrained, path: Path, texts: str | None, n_sequences: int) -> Fisher:
    """Return the Fisher information that an earlier call kept, or estimate and keep it."""
    from gdrop_viz.fisher import Fisher, fisher_information
    from gdrop_viz.text.batches import pretraining_batches

    source = {"texts": texts} if texts else WIKIPEDIA
    file = path / f"fisher-{lm.name.replace('/', '-')}-{n_sequences}.safetensors"
    if file.exists():
        return Fisher.load(file)
    length = min(_SEQUENCE_LENGTH, length_limit(lm))
    batches = pretraining_batches(lm, **source, n_sequences=n_sequences, max_length=length)
    fisher = fisher_information(lm.model, batches, resolution="tensor")
    path.mkdir(parents=True, exist_ok=True)
    fisher.save(file)
    return fisher


def _with_interval(row: pd.Series) -> str:
    return f"{100 * row['mean']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


if __name__ == "__main__":
    main()
