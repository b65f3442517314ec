"""Headless commands: `python -m gdrop_viz --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


for command in (fisher, landscape, compare, report):
    app.command()(command)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("build/demo.html"),
    model: Annotated[str, typer.Option(help="A bundled model, a local folder or a hub id.")] = "bert-mini",
    task: Annotated[str, typer.Option(help="A bundled task, a GLUE task or a local file.")] = "sentiment",
    n_train: Annotated[int, typer.Option(help="Training sentences of the comparison.")] = 400,
    seeds: Annotated[int, typer.Option(help="Seeds per arm and data fraction.")] = 3,
) -> None:
    """Walk through the whole method in a few minutes and write one page with findings and pictures."""
    from gdrop_viz.demo import run_demo

    run_demo(output, model=model, task=task, n_train=n_train, seeds=seeds)


if __name__ == "__main__":
    app(prog_name="python -m gdrop_viz")
