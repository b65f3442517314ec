"""`paper`: the paper's own fine-tuning protocol, beside the figures that its authors printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdrop_viz.commands import options
from gdrop_viz.commands.jobs import job, stoppable


@job
def paper(
    output: options.Output = Path("paper-runs"),
    model: options.Model = "bert-base-uncased",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    glue: Annotated[str | None, typer.Option(help="Local folder or hub id of GLUE; else the hub's.")] = None,
    text: Annotated[
        str | None, typer.Option(help="File with pretraining text; else simple-English Wikipedia from the hub.")
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="For the Fisher information; 2400 are 1 % of that Wikipedia.")
    ] = 2400,
    task: Annotated[list[str], typer.Option(help="Of GLUE; give it several times.")] = [  # noqa: B006
        "cola",
        "mrpc",
        "rte",
        "stsb",
    ],
    fraction: Annotated[list[float], typer.Option(help="Shares of the training data; several times.")] = [1.0, 0.5],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs per arm and fraction; 6 at least for a test at 5 %.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 3,
    n_train: Annotated[int | None, typer.Option(help="Use only so many training rows, to try it out.")] = None,
    n_validation: Annotated[int | None, typer.Option(help="The same for validation rows.")] = None,
    config: options.Config = None,
) -> None:
    """Fine-tune on GLUE as the paper's authors did, with several seeds and the controls that the paper lacks.

    Estimates the Fisher information, trains guided dropout and five other arms, prints their figures beside the
    published ones, and the verdicts. Finished runs are kept in OUTPUT: the same command goes on where it was stopped.
    It wants a GPU and the hub; without a network, --model, --glue (a folder in the layout of the hub's
    "nyu-mll/glue") and --text may be local.

    Example: `python -m gdrop_viz paper --output paper-runs/ --seeds 10`
    """
    from gdrop_viz.studies.paper import beside_published, by_validation_set, paper_fisher, paper_protocol

    lm = options.load_model(model, revision, trust_remote_code, "cpu")  # each run goes to a GPU by itself
    with stoppable() as stop:
        fisher = paper_fisher(lm, output, text=text, n_sequences=sequences, stop=stop)
        results = paper_protocol(
            lm, fisher, path=output, tasks=task, fractions=fraction, seeds=range(seeds), epochs=epochs,
            n_train=n_train, n_validation=n_validation, glue=glue, stop=stop,
        )  # fmt: skip
    typer.echo(beside_published(results).to_string(index=False))
    for name, result in by_validation_set(results).items():
        for arm in ("standard", "matched mean"):
            for line in result.verdict("guided", arm).splitlines():
                typer.echo(f"{name}: {line}")
