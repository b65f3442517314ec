"""`landscape-findings`: the loss along informative and other parameters, beside the Hessian, model by model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdrop_viz.commands.jobs import end_stopped, job


@job
def landscape_findings(
    models: Annotated[
        list[str] | None, typer.Argument(help="Bundled names, folders or hub ids; default: all bundled.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for <model>.json; default: the bundled one.")] = None,
    work: Annotated[Path, typer.Option(help="Where unfinished measurements are kept.")] = Path("runs/landscape"),
    directions: Annotated[int, typer.Option(min=2, help="Random directions of each comparison.")] = 8,
) -> None:
    """Measure how the loss rises along informative and other parameters, beside the Hessian. Goes on where it was."""
    from gdrop_viz.models.bundled import bundled_models, data_folder
    from gdrop_viz.models.pretrained import load_pretrained
    from gdrop_viz.studies import measure_landscape

    folder = output or data_folder() / "landscape_findings"
    for model in models or bundled_models():
        try:
            found = measure_landscape(load_pretrained(model), folder, work=work, n_directions=directions)
        except KeyboardInterrupt:
            end_stopped()
        for verdict in found.verdicts():
            typer.echo(f"- {verdict}")
