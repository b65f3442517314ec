"""Headless commands: `python -m gdrop_viz --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdrop_viz.base.logs import show_log
from gdrop_viz.commands.compare import compare
from gdrop_viz.commands.fisher import fisher
from gdrop_viz.commands.landscape import landscape
from gdrop_viz.commands.report import report

app = typer.Typer(
    help="""See where a pretrained language model keeps its information, and what guided dropout does with it.

    A study in four commands that share one folder: `fisher`, `landscape`, `compare`, then `report` for a page of what
    was found. `demo` does all of it once, small. Every command explains itself: add `--help`.""",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", help="Print what the package logs while it works.")] = False,
) -> None:
    """gdrop_viz: Fisher information, loss landscapes and guided dropout of pretrained language models."""
    if verbose:
        show_log()


for command in (fisher, landscape, compare, report):
    app.command()(command)


@app.command()
def problem() -> None:
    """Print versions, device and settings for a report of a problem; nothing private is in it."""
    from gdrop_viz.commands.problem import problem_report

    print(problem_report())


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("build/demo.html"),
    model: Annotated[str, typer.Option(help="A bundled model, a local folder or a hub id.")] = "bert-mini",
    task: Annotated[str, typer.Option(help="A bundled task, a GLUE task or a local file.")] = "sentiment",
    n_train: Annotated[int, typer.Option(help="Training sentences of the comparison.")] = 400,
    seeds: Annotated[int, typer.Option(help="Seeds per arm and data fraction.")] = 3,
) -> None:
    """Walk through the whole method in a few minutes and write one page with findings and pictures."""
    from gdrop_viz.commands.demo import run_demo

    run_demo(output, model=model, task=task, n_train=n_train, seeds=seeds)


@app.command()
def landscape_findings(
    models: Annotated[
        list[str] | None, typer.Argument(help="Bundled names, folders or hub ids; default: all bundled.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for <model>.json; default: the bundled one.")] = None,
    work: Annotated[Path, typer.Option(help="Where unfinished measurements are kept.")] = Path("runs/landscape"),
    directions: Annotated[int, typer.Option(help="Random directions of each comparison.")] = 8,
) -> None:
    """Measure how the loss rises along informative and other parameters, beside the Hessian. Goes on where it was."""
    from gdrop_viz.models.bundled import bundled_models, data_folder
    from gdrop_viz.models.pretrained import load_pretrained
    from gdrop_viz.studies import measure_landscape

    for model in models or bundled_models():
        found = measure_landscape(
            load_pretrained(model), output or data_folder() / "landscape_findings", work=work, n_directions=directions
        )
        for verdict in found.verdicts():
            print(f"- {verdict}", flush=True)


if __name__ == "__main__":
    app(prog_name="python -m gdrop_viz")
