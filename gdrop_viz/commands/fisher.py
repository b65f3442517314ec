"""`fisher`: the Fisher information of every parameter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdrop_viz.commands import options
from gdrop_viz.commands.jobs import claim, end_stopped, job, stoppable

if TYPE_CHECKING:
    import pandas as pd

FILE = "fisher.safetensors"


@job
def fisher(
    output: options.Output = Path("results"),
    model: options.Model = "bert-mini",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device: options.Device = "auto",
    text: options.Text = None,
    text_config: options.TextConfig = None,
    sequences: options.Sequences = 256,
    batch_size: options.BatchSize = 16,
    max_length: options.MaxLength = 128,
    seed: options.Seed = 0,
    estimator: Annotated[
        str, typer.Option(help="empirical (labels of the data), sampled or hutchinson.")
    ] = "empirical",
    resolution: Annotated[
        str, typer.Option(help="element: a score per parameter; tensor: means, less memory.")
    ] = "element",
    stop_when_stable: Annotated[
        float | None, typer.Option(help="Such as 0.95: end when the order of the layers is settled.")
    ] = None,
    config: options.Config = None,
) -> None:
    """Estimate the Fisher information of every parameter: OUTPUT/fisher.safetensors.

    F = mean over sequences of the squared gradient of each one's pretraining loss. Open it in a notebook with
    `gv.Fisher.load("results/fisher.safetensors")`.

    Killed or stopped, the same command goes on from its last checkpoint. On several GPUs:
    `torchrun --nproc_per_node=4 -m gdrop_viz fisher ...`

    Example: `python -m gdrop_viz fisher --model gpt2 --sequences 1000 --output results/gpt2`
    """
    from gdrop_viz.base.processes import is_first, joined

    with joined():
        lm = options.load_model(model, revision, trust_remote_code, device)
        batches = options.load_text(
            lm, text, text_config, sequences=sequences, batch_size=batch_size, max_length=max_length, seed=seed,
            progress=is_first(),
        )  # fmt: skip
        from gdrop_viz.fisher import Fisher, fisher_information
        from gdrop_viz.models.digest import model_digest

        settings = {
            "model": lm.name, "weights": model_digest(lm.model), "text": batches.checksum, "estimator": estimator,
            "resolution": resolution, "stop when stable": stop_when_stable,
        }  # fmt: skip
        if is_first():
            claim(output, "fisher", settings)
        file = output / FILE
        if file.exists():
            result = Fisher.load(file, model=lm.model)
        else:
            with stoppable() as stop:
                result = fisher_information(
                    lm.model, batches, estimator=estimator, resolution=resolution, stop_when_stable=stop_when_stable,
                    checkpoint=output / "fisher.checkpoint.safetensors", stop=stop, progress=is_first(),
                )  # fmt: skip
        if result.ended == "stopped":
            end_stopped()
        if not is_first():
            return
        if not file.exists():
            result.save(file)
            for checkpoint in output.glob("fisher.checkpoint*.safetensors"):  # one of each process
                checkpoint.unlink()
        share = information_in_top(result.concentration(), 0.01)
        typer.echo(result.grouped("layer")[["elements", "mean", "share"]].to_string(float_format="{:.4g}".format))
        what = "parameters" if resolution == "element" else "parameters, tensor by tensor,"
        typer.echo(f"{result.n_sequences} sequences; the top 1 % of the {what} carry {share:.0%} of the information.")
        typer.echo(f"Written: {file}")


def information_in_top(curve: pd.DataFrame, share: float) -> float:
    """Return the part of all information that the best `share` of the parameters carry; `curve`: `concentration()`."""
    import numpy as np

    return float(np.interp(share, curve["parameters"], curve["information"]))
