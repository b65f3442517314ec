"""Comparison of guided dropout with its controls: the long part of lessons 03 and 04, run without a notebook.

    python notebooks/findings.py                               every study, 10 seeds
    python notebooks/findings.py bert-mini-sentiment --seeds 20
    python notebooks/findings.py --workers 2                   two processes, one thread each
    python notebooks/findings.py --bf16                        mixed precision, as the files in data/findings
    python notebooks/findings.py --list                        what is there, and how many seeds it has

A study is one bundled model on one bundled task: arms x shares of a pool of 1,000 training sentences x seeds. Every
finished run is kept in the folder `--runs`, so that the same command goes on where it was stopped, and a larger
`--seeds` only adds runs; a retrained model or other settings never mix in. Whenever a seed is complete in all arms and
shares, the study's small file in data/findings/ is written anew: the lessons show what it holds, with the number of
seeds. Seeds are the outermost loop, so whatever is there is a whole paired comparison.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import platform
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gdrop_viz as gv
from gdrop_viz.base.digest import file_digest
from gdrop_viz.models.bundled import bundled_models, data_folder

ROOT = Path(__file__).resolve().parent.parent
N_TRAIN, N_VALIDATION, EPOCHS = 1000, 1000, 3
LOWER, UPPER = 0.0, 0.1

# the three that the question needs, and four that tell apart what it mixes
FEW = ("guided", "standard 0.1", "same mean")
MANY = (*FEW, "reversed", "shuffled", "none", "Gaussian 0.1")


@dataclass(frozen=True)
class Study:
    """One model on one task; `learning_rate` None is the default for the model's size."""

    model: str
    task: str
    arms: tuple[str, ...] = FEW
    fractions: tuple[float, ...] = (1.0, 0.25)
    learning_rate: float | None = None

    @property
    def name(self) -> str:
        """Name of its file in data/findings/."""
        return f"{self.model}-{self.task}"


STUDIES = {
    study.name: study
    for study in (
        Study("bert-mini", "sentiment", MANY, (1.0, 0.5, 0.25, 0.1)),
        Study("bert-mini", "rating"),
        Study("bert-mini", "acceptability"),
        Study("gpt2-mini", "sentiment"),
        Study("t5-mini", "sentiment"),
    )
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the studies that are asked for and write their files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("studies", nargs="*", metavar="study", help=f"of {', '.join(STUDIES)}; by default all")
    parser.add_argument("--seeds", type=int, default=10, help="how many; at least 6 for a test at 5 %%")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "findings", help="folder for the finished runs")
    parser.add_argument("--output", type=Path, default=data_folder() / "findings", help="folder for the small files")
    parser.add_argument("--workers", type=int, default=1, help="processes; each with one thread if there are several")
    parser.add_argument("--bf16", action="store_true", help="mixed precision: a third less time where it is native")
    parser.add_argument("--list", action="store_true", help="run nothing, say what is there")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(state(options.output)))
        return
    chosen = chosen_studies(parser, options.studies)
    if options.seeds < 1 or options.workers < 1:
        parser.error("--seeds and --workers must be at least 1")
    settings: dict[str, Any] = {"threads": 1 if options.workers > 1 else None}
    if options.bf16:
        settings["training_arguments"] = {"bf16": True, "use_cpu": not torch.cuda.is_available()}
    try:
        with workers(options.workers) as executor:
            run_studies(chosen, range(options.seeds), options.runs, options.output, executor=executor, **settings)
    except KeyboardInterrupt:
        print(f"stopped; the finished runs are in {options.runs}, and the same command goes on from there")
    print("\n".join(state(options.output)))


def chosen_studies(parser: argparse.ArgumentParser, names: Sequence[str]) -> list[Study]:
    """The studies of these names, by default all whose model is bundled."""
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        parser.error(f"a study must be one of {', '.join(STUDIES)}, got {', '.join(unknown)}")
    chosen = [STUDIES[name] for name in names or STUDIES]
    missing = sorted({study.model for study in chosen} - set(bundled_models()))
    if missing and names:
        parser.error(f"{', '.join(missing)} is not bundled; there are {', '.join(bundled_models())}")
    if missing:
        print(f"left out, since the model is not bundled: {', '.join(missing)}")
    return [study for study in chosen if study.model not in missing]


def run_studies(
    studies: Iterable[Study],
    seeds: Iterable[int],
    runs: Path,
    output: Path,
    *,
    sizes: tuple[int, int] = (N_TRAIN, N_VALIDATION),
    **settings: Any,
) -> None:
    """Run all studies with the first seed, then all with the second, and so on; a file is written after each."""
    n_train, n_validation = sizes
    tasks = {study: gv.load_task(study.task).subset(n_train=n_train, n_validation=n_validation) for study in studies}
    parts: dict[Study, list[gv.Comparison]] = {study: [] for study in tasks}
    for seed in seeds:
        for study, task in tasks.items():
            lm, guided = model_and_schedule(study.model)
            every_arm = {
                "guided": guided,
                "standard 0.1": 0.1,
                "same mean": guided.matched_uniform(),
                "reversed": guided.reversed(),
                "shuffled": guided.shuffled(seed=seed),  # another order for each seed, not one lucky one
                "none": None,
                "Gaussian 0.1": gv.GaussianArm(0.1),
            }
            part = gv.compare(
                lm,
                task,
                {arm: every_arm[arm] for arm in study.arms},
                fractions=study.fractions,
                seeds=[seed],
                path=runs / study.name,
                **{"epochs": EPOCHS, "learning_rate": study.learning_rate, "evaluate": "end", **settings},
            )
            parts[study].append(part)
            result = gv.Comparison.joined(parts[study])
            bf16 = bool(settings.get("training_arguments"))
            result = replace(result, metadata={**result.metadata, **provenance(study, guided, bf16=bf16)})
            save(result, output / f"{study.name}.json")
            print(f"{study.name}: {len(parts[study])} of the seeds complete", flush=True)


@functools.cache
def model_and_schedule(model: str) -> tuple[gv.Pretrained, gv.DropoutSchedule]:
    """Load a model and make the guided schedule from the Fisher information of held-out bundled text."""
    lm = gv.load_pretrained(model)
    fisher = gv.fisher_information(lm.model, gv.pretraining_batches(lm, progress=False), resolution="tensor")
    return lm, gv.guided_dropout(lm.model, fisher, lower=LOWER, upper=UPPER)


def save(result: gv.Comparison, file: Path) -> None:
    """Write `result`, unless the file holds more seeds of the same model: a shorter run must not undo a longer one."""
    if file.is_file():
        there = gv.Comparison.load(file)
        same_model = there.metadata.get("weights_sha256") == result.metadata["weights_sha256"]
        if same_model and there.runs["seed"].nunique() > result.runs["seed"].nunique():
            return
    file.parent.mkdir(parents=True, exist_ok=True)
    result.save(file)


def provenance(study: Study, guided: gv.DropoutSchedule, *, bf16: bool) -> dict[str, Any]:
    """What a reader of the file needs to make it again, and to see whether it is out of date."""
    return {
        "command": f"python notebooks/findings.py {study.name}{' --bf16' * bf16}",
        "guided_rates": dict(guided.rates),
        "weights_sha256": weights_checksum(study.model),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
            "gdrop_viz": gv.__version__,
        },
    }


def weights_checksum(model: str) -> str:
    """The sha256 of a bundled model's weights file."""
    return file_digest(data_folder() / "models" / model / "model.safetensors")


def state(folder: Path) -> list[str]:
    """One line for each study: how many seeds its file has, and whether the model has changed since."""
    lines = []
    for name, study in STUDIES.items():
        file = folder / f"{name}.json"
        if not file.is_file():
            lines.append(f"{name}: nothing yet")
            continue
        result = gv.Comparison.load(file)
        old = result.metadata["weights_sha256"] != weights_checksum(study.model)
        lines.append(
            f"{name}: {result.runs['seed'].nunique()} seeds x {len(result.fractions)} shares x {len(result.arms)} arms"
            f"{', of an earlier version of the model: run it again' if old else ''}"
        )
    return lines


def workers(n: int) -> AbstractContextManager[Executor | None]:
    """Processes to spread the runs over; none for one worker."""
    if n == 1:
        return nullcontext()
    return ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"))


if __name__ == "__main__":
    main()
