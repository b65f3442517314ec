"""`compare`: fine-tuning with guided dropout and with its controls."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdrop_viz.commands import fisher as fisher_command
from gdrop_viz.commands import options
from gdrop_viz.commands.jobs import claim, end_stopped, job, stoppable, workers

if TYPE_CHECKING:
    from gdrop_viz.dropout import DropoutSchedule

FILE, RUNS, SCHEDULE = "comparison.json", "runs", "schedule.json"


class ArmName(str, Enum):
    """How a run's dropout rates are set."""

    guided = "guided"
    standard = "standard"
    matched = "matched"
    reversed = "reversed"
    shuffled = "shuffled"
    gaussian = "gaussian"
    none = "none"


@job
def compare(
    output: options.Output = Path("results"),
    model: options.Model = "bert-mini",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    fisher: Annotated[
        Path | None, typer.Option(help="Fisher information of this model; else OUTPUT/fisher.safetensors.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="sentiment, rating, acceptability, glue/rte, ... or a csv file.")
    ] = "sentiment",
    arm: Annotated[
        list[ArmName],
        typer.Option(help="What is compared; give it several times. The first is held against the others."),
    ] = [ArmName.guided, ArmName.standard, ArmName.matched, ArmName.reversed],  # noqa: B006
    lower: Annotated[float, typer.Option(help="Guided rate where most information is.")] = 0.0,
    upper: Annotated[float, typer.Option(help="Guided rate where least information is.")] = 0.1,
    rate: Annotated[float, typer.Option(help="Rate of the arms standard and gaussian.")] = 0.1,
    fraction: Annotated[list[float], typer.Option(help="Shares of the training data; several times.")] = [1.0],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs per arm and fraction; 6 at least for a test at 5 %.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 3,
    learning_rate: Annotated[float | None, typer.Option(help="Else 2e-5, and 2e-4 for small models.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences per update.")] = 16,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens per text.")] = 128,
    n_train: Annotated[int | None, typer.Option(help="Use only so many training rows.")] = None,
    n_validation: Annotated[int | None, typer.Option(help="The same for validation rows.")] = None,
    n_workers: options.Workers = 1,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per run; cores / workers.", rich_help_panel="Where it runs")
    ] = None,
    scheduler: options.Scheduler = None,
    config: options.Config = None,
) -> None:
    """Fine-tune with guided dropout and its controls: OUTPUT/comparison.json.

    Runs of one seed share data, order and head, so differences are paired. Every finished run is kept in OUTPUT/runs
    and never repeated: more seeds, arms or fractions can be added later. Open the result in a notebook with
    `gv.Comparison.load("results/comparison.json")`. The dropout rates are in OUTPUT/schedule.json.

    Example: `python -m gdrop_viz compare --task glue/rte --seeds 10 --fraction 1 --fraction 0.25 --workers 4`
    """
    from gdrop_viz.base.processes import is_first
    from gdrop_viz.finetuning import compare as run_comparison
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.models.digest import model_digest
    from gdrop_viz.text.tasks import load_task

    lm = options.load_model(model, revision, trust_remote_code, "cpu")  # each run goes to a GPU by itself
    rows = load_task(task).subset(n_train=n_train, n_validation=n_validation)
    schedule = None
    if {ArmName.guided, ArmName.matched, ArmName.reversed, ArmName.shuffled} & set(arm):
        file = fisher or output / fisher_command.FILE
        if not file.exists():
            raise FileNotFoundError(
                f"guided dropout needs the Fisher information, but {file} does not exist; run `python -m gdrop_viz "
                "fisher` with the same --output first, or name a file by --fisher"
            )
        from gdrop_viz.dropout import guided_dropout

        schedule = guided_dropout(lm.model, Fisher.load(file, model=lm.model), lower=lower, upper=upper)
    settings = {
        "model": lm.name, "weights": model_digest(lm.model), "task": task, "lower": lower, "upper": upper,
        "rate": rate, "epochs": epochs, "learning rate": learning_rate, "batch size": batch_size,
        "max length": max_length, "n_train": n_train, "n_validation": n_validation,
    }  # fmt: skip
    claim(output, "compare", settings)
    if schedule is not None:
        schedule.save(output / SCHEDULE)
    arms = {name.value: _arm(name, schedule, rate) for name in dict.fromkeys(arm)}
    with stoppable() as stop, workers(n_workers, scheduler) as executor:
        result = run_comparison(
            lm, rows, arms, fractions=fraction, seeds=range(seeds), epochs=epochs, learning_rate=learning_rate,
            batch_size=batch_size, max_length=max_length, path=output / RUNS, executor=executor, threads=threads,
            stop=stop,
        )  # fmt: skip
    if not result.metadata["complete"]:
        end_stopped()
    if not is_first():
        return
    result.save(output / FILE)
    typer.echo(result.summary().to_string(index=False, float_format="{:.4f}".format))
    first, *others = arms
    for other in others:
        typer.echo(result.verdict(first, other))
    typer.echo(f"Written: {output / FILE}")


def _arm(name: ArmName, schedule: DropoutSchedule | None, rate: float) -> Any:
    from gdrop_viz.finetuning import GaussianArm

    if name is ArmName.standard:
        return rate
    if name is ArmName.gaussian:
        return GaussianArm(rate)
    if name is ArmName.none or schedule is None:
        return None
    schedules = {
        ArmName.guided: lambda: schedule,
        ArmName.matched: schedule.matched_uniform,
        ArmName.reversed: schedule.reversed,
        ArmName.shuffled: lambda: schedule.shuffled(seed=0),
    }
    return schedules[name]()
