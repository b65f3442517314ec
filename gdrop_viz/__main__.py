"""Headless commands: `python -m gdrop_viz --help`."""

from __future__ import annotations

from typing import Annotated

import typer

from gdrop_viz.base.logs import show_log
from gdrop_viz.commands.compare import compare
from gdrop_viz.commands.demo import demo
from gdrop_viz.commands.fisher import fisher
from gdrop_viz.commands.landscape import landscape
from gdrop_viz.commands.landscape_findings import landscape_findings
from gdrop_viz.commands.paper import paper
from gdrop_viz.commands.problem import problem
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


for command in (fisher, landscape, compare, report, demo, landscape_findings, paper, problem):
    app.command()(command)

if __name__ == "__main__":
    app(prog_name="python -m gdrop_viz")
