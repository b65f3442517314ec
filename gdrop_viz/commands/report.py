"""`report`: the results in a folder as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gdrop_viz.commands.jobs import job

if TYPE_CHECKING:
    from gdrop_viz.commands.page import Page

_Result = TypeVar("_Result")


@job
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with results of the other commands, or of notebooks.")],
    output: Annotated[Path | None, typer.Option(help="The page; by default FOLDER/report.html.")] = None,
    title: Annotated[str | None, typer.Option(help="Its title; by default the folder's name.")] = None,
) -> None:
    """Make one self-contained HTML page of a folder: settings, pictures and tables of whatever is found there.

    Finds Fisher information (*.safetensors), loss surfaces (*.h5), dropout schedules and comparisons (*.json, folders
    of runs), in subfolders too. The page needs no network and can be sent around.

    Example: `python -m gdrop_viz report results/`
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder with results, but {folder} is none")
    page = page_of(folder, title or folder.resolve().name)
    written = page.write(output or folder / "report.html")
    typer.echo(f"Written: {written}")


def page_of(folder: Path, title: str) -> Page:
    """Return the page of whatever results lie below `folder`; raises ValueError if there is none."""
    import matplotlib

    from gdrop_viz.commands.page import Page

    matplotlib.use("Agg")
    page = Page(title)
    before = len(page.parts)
    for section in (_fisher, _surfaces, _schedules, _comparisons):
        section(page, folder)
    if len(page.parts) == before:
        raise ValueError(
            f"no results in {folder}: expected *.safetensors of Fisher.save, *.h5 of Surface.save, *.json of "
            "DropoutSchedule.save or Comparison.save, or a folder of runs"
        )
    _settings(page, folder)
    return page


def _fisher(page: Page, folder: Path) -> None:
    from gdrop_viz import plots
    from gdrop_viz.fisher import Fisher

    files = [file for file in sorted(folder.rglob("*.safetensors")) if ".checkpoint" not in file.name]
    for name, fisher in _readable(page, folder, files, Fisher.load):
        page.heading(f"Fisher information: {name}")
        page.text(
            f"{fisher.model_class or 'scores from elsewhere'}, {fisher.estimator} estimator, "
            f"{fisher.n_sequences:,} sequences, a score per {fisher.resolution}.",
            kind="note",
        )
        page.picture(plots.fisher_heatmap(fisher), "Mean Fisher score of each component along the depth")
        page.picture(
            plots.fisher_concentration(fisher, log=True), "Share of the information carried by the best parameters"
        )
        table = fisher.grouped("layer and component")[["elements", "mean", "standard error", "share"]]
        page.table(table.sort_values("share", ascending=False).head(12), caption="Where most of the information lies")


def _surfaces(page: Page, folder: Path) -> None:
    import pandas as pd

    from gdrop_viz import plots
    from gdrop_viz.landscape import Surface

    groups: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*.h5")):
        groups.setdefault(file.parent, []).append(file)
    for place, files in groups.items():
        read = list(_readable(page, folder, files, Surface.load))
        found = {str(s.metadata.get("label") or Path(name).stem): s for name, s in read if s.n_evaluated}
        if not found:
            continue
        page.heading(f"Loss surfaces: {_shown(place, folder)}")
        planes = {label: surface for label, surface in found.items() if surface.y is not None}
        lines = {label: surface for label, surface in found.items() if surface.y is None}
        if planes:
            page.picture(plots.compare_surfaces(planes), "Pretraining loss on each plane, one colour scale")
        for label, surface in lines.items():
            page.picture(plots.surface_section(surface), f"Pretraining loss along {label}")
        rows = {label: _surface_row(surface) for label, surface in found.items()}
        page.table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("moved"), caption="Loss in nats")


def _surface_row(surface: Any) -> dict[str, Any]:
    edge = surface.radial()["loss"].iloc[-1]
    return {
        "points": f"{surface.n_evaluated} of {surface.loss.size}",
        "reach": float(surface.x[-1]),
        "at the centre": surface.centre_loss,
        "farthest from it": float(edge),
    }


def _schedules(page: Page, folder: Path) -> None:
    from gdrop_viz import plots
    from gdrop_viz.dropout import DropoutSchedule

    for name, schedule in _readable(page, folder, _json_files(folder, "schedule"), DropoutSchedule.load):
        page.heading(f"Dropout rates: {name}")
        page.picture(plots.dropout_rates(schedule), f"Rate of each of {len(schedule.rates)} sites")
        page.text(f"Mean rate {schedule.mean_rate:.4g}.", kind="note")


def _comparisons(page: Page, folder: Path) -> None:
    from gdrop_viz import plots
    from gdrop_viz.finetuning import Comparison
    from gdrop_viz.finetuning.store import FORMAT

    files = _json_files(folder, "comparison")
    saved = {file.parent for file in files}
    run_folders = sorted({file.parent for file in _json_files(folder, FORMAT)})
    # runs beside or below a saved comparison are its own
    sources = files + [place for place in run_folders if not {place, *place.parents} & saved]
    for name, result in _readable(page, folder, sources, Comparison.load):
        page.heading(f"Comparison: {name}")
        if result.runs.empty:
            page.text("No run is finished.", kind="note")
            continue
        if not result.metadata.get("complete", True):
            page.text("Not all of its runs are done.", kind="note")
        page.picture(plots.comparison(result), "Every run, the mean and its 95 % interval")
        page.table(result.summary().set_index(["fraction", "arm"]), caption=f"{result.metric}, after the last epoch")
        first, *others = result.arms
        for other in others:
            for line in result.verdict(first, other).splitlines():
                page.text(line, kind="finding")


def _settings(page: Page, folder: Path) -> None:
    import pandas as pd

    for file in sorted(folder.rglob("*.json")):
        content = _content(file)
        if isinstance(content, dict) and content.keys() == {"command", "settings"}:
            page.heading(f"Settings: {_shown(file, folder)}")
            page.table(pd.Series(content["settings"], name="value", dtype=object).to_frame().map(str))


def _readable(
    page: Page, folder: Path, files: list[Path], load: Callable[[Path], _Result]
) -> Iterator[tuple[str, _Result]]:
    """Yield (name, result) of the files that can be read; the page says which cannot, and why."""
    for file in files:
        try:
            result = load(file)
        except (ValueError, OSError) as error:
            page.text(f"{_shown(file, folder)} was left out: {error}", kind="note")
            continue
        yield _shown(file, folder), result


def _json_files(folder: Path, kind: str) -> list[Path]:
    files = []
    for file in sorted(folder.rglob("*.json")):
        content = _content(file)
        if isinstance(content, dict) and kind in str(content.get("format", "")):
            files.append(file)
    return files


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None


def _shown(file: Path, folder: Path) -> str:
    name = str(file.relative_to(folder))
    return folder.resolve().name if name == "." else name
