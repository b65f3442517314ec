"""Options that several commands share; the settings file; the model and the text that they name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.batches import Batches


def read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make a settings file's values the defaults of the command's options; flags given beside it win.

    Keys at the top are for every command that reads settings, those in a table of a command's name (`[fisher]`) for
    that one. A key is an option's long name.

    Raises
    ------
    typer.BadParameter
        For a file that cannot be read, or a key that no command has.
    """
    if path is None:
        return None
    content = _parsed(path)
    group = context.find_root().command
    names = {name: _parameters(command) for name, command in getattr(group, "commands", {}).items()}
    names = {name: parameters for name, parameters in names.items() if "config" in parameters}
    command, own = context.info_name or "", _parameters(context.command)
    tables = {name: content.pop(name) for name in names if isinstance(content.get(name), Mapping)}
    mine = {_name(key): value for key, value in tables.get(command, {}).items()}
    shared = {_name(key): value for key, value in content.items()}
    unknown = [*(mine.keys() - own), *(shared.keys() - own.union(*names.values()))]
    if unknown:
        raise typer.BadParameter(
            f"{path} sets {', '.join(sorted(unknown))}, which {command} does not know; "
            f"it has {', '.join(sorted(own - {'config'}))}"
        )
    context.default_map = {**{key: value for key, value in shared.items() if key in own}, **mine}
    return path


def _parameters(command: Any) -> set[str]:
    return {parameter.name for parameter in command.params}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            import tomllib

            content = tomllib.loads(text)
        else:
            import yaml

            content = yaml.safe_load(text)
    except ImportError:
        raise typer.BadParameter("TOML needs Python 3.11 or newer; write the settings as YAML") from None
    except Exception as error:
        raise typer.BadParameter(f"{path} could not be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} should hold lines such as `model: bert-mini`, got {type(content).__name__}")
    return content


def _name(key: str) -> str:
    return key.replace("-", "_")


Config = Annotated[
    Path | None,
    typer.Option(
        callback=read_settings,
        is_eager=True,
        help="YAML or TOML file with any of these options, such as `model: gpt2`.",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder of the results; one folder, one experiment.")]

Model = Annotated[
    str, typer.Option(help="Bundled name, local folder or hub id such as bert-base-uncased.", rich_help_panel="Model")
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the hub repository.", rich_help_panel="Model")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Let code of the hub repository run here.", rich_help_panel="Model"),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU if any.", rich_help_panel="Model")]

Text = Annotated[
    str | None,
    typer.Option(help="File or hub data set with text like the pretraining's; else bundled.", rich_help_panel="Text"),
]
TextConfig = Annotated[
    str | None,
    typer.Option(help="Configuration of a hub data set, such as 20231101.simple.", rich_help_panel="Text"),
]
Sequences = Annotated[int, typer.Option(min=1, help="How many sequences of text.", rich_help_panel="Text")]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Sequences at once; fewer need less memory.", rich_help_panel="Text")
]
MaxLength = Annotated[int, typer.Option(min=8, help="Tokens per sequence.", rich_help_panel="Text")]
Seed = Annotated[int, typer.Option(help="Of the sample of text, its masks and random directions.")]

Workers = Annotated[
    int,
    typer.Option(
        "--workers", min=1, help="Processes on this machine that share the work.", rich_help_panel="Where it runs"
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask scheduler, such as tcp://head:8786.", rich_help_panel="Where it runs"),
]


def load_model(name: str, revision: str | None, trust_remote_code: bool, device: str) -> Pretrained:
    """Load the model that the options name, on the device that they name."""
    from gdrop_viz.models.pretrained import load_pretrained

    if device == "auto":
        import torch

        # under torchrun each process of a machine has a GPU of its own
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return load_pretrained(name, revision=revision, trust_remote_code=trust_remote_code, device=device)


def load_text(
    lm: Pretrained,
    text: str | None,
    text_config: str | None,
    *,
    sequences: int,
    batch_size: int,
    max_length: int,
    seed: int,
    progress: bool = True,
) -> Batches:
    """Return the masked text that the options name."""
    from gdrop_viz.text.batches import pretraining_batches

    return pretraining_batches(
        lm, text, dataset_config=text_config, n_sequences=sequences, batch_size=batch_size, max_length=max_length,
        seed=seed, progress=progress,
    )  # fmt: skip
