"""How do the lessons get outputs that are clean, complete and of these very data? Run them all and keep the pictures.

    python notebooks/refresh.py                         every lesson
    python notebooks/refresh.py 00_start_here.ipynb     only this one
    python notebooks/refresh.py --check                 run nothing: are the outputs clean and up to date?

Each lesson runs from top to bottom in a new kernel and in an empty folder, so that nothing left by an earlier run can
help it. What only lives in a browser (widget state, progress bars) and what differs every time (timings) is taken
out; pictures and tables stay, for readers on GitHub. A lesson that fails or warns is not written back.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
_WIDGET = "application/vnd.jupyter.widget-view+json"
# an absolute path, or the address of an object: neither means anything on another machine
_NOT_PORTABLE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|Users|opt|mnt|var)/\S+|\bat 0x[0-9a-f]{6,}")


def main(arguments: list[str] | None = None) -> int:
    """Refresh (or check) the lessons; return the number of those that are not as they should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in this folder")
    parser.add_argument("--check", action="store_true", help="run nothing, only look at the outputs")
    parser.add_argument("--timeout", type=int, default=1200, help="seconds for one cell")
    options = parser.parse_args(arguments)
    paths = [path if path.is_file() else FOLDER / path for path in options.notebooks] or lessons()
    bad = 0
    for path in paths:
        if options.check:
            wrong, cost = problems(nbformat.read(path, as_version=4)), ""
        else:
            wrong, cost = refresh(path, options.timeout)
        print(f"{path.name}: {'; '.join(wrong) or 'fine'}{cost}", flush=True)
        bad += bool(wrong)
    return bad


def lessons() -> list[Path]:
    """All lessons, in their order."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def refresh(path: Path, timeout: int) -> tuple[list[str], str]:
    """Run one lesson and write it back with clean outputs; return what is wrong with it, and what it cost."""
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    clock, processor = time.monotonic(), _child_seconds()
    try:
        execute(notebook, timeout)
    except CellExecutionError as error:
        return [f"a cell failed: {error.ename}: {error.evalue}"], ""
    cost = f" ({time.monotonic() - clock:.0f} s, {_child_seconds() - processor:.0f} s of processor time)"
    clean(notebook)
    notebook.metadata["gdrop_viz"] = {"outputs_of": fingerprint(notebook)}
    wrong = problems(notebook)
    if not wrong:
        text = nbformat.writes(notebook)
        temporary = path.with_suffix(".ipynb.new")
        temporary.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")
        os.replace(temporary, path)
    return wrong, cost


def execute(notebook: nbformat.NotebookNode, timeout: int) -> None:
    """Run all cells in a new kernel of this Python, in an empty folder."""
    from nbclient import NotebookClient

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # spinning OpenMP threads starve each other where other work goes on
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute(env=environment)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Take out widget state, progress bars and timings; leave pictures, tables and text."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if _WIDGET in output.get("data", {}):
                del output.data[_WIDGET]
                output.metadata.pop(_WIDGET, None)
                if "image/png" not in output.data:  # a progress bar leaves no picture
                    continue
            last = kept[-1] if kept else {}
            if output.output_type == "stream" and output.name == last.get("name"):
                last["text"] += output.text  # where a stream was cut is chance
                continue
            kept.append(output)
        cell.outputs = kept


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Say what is wrong with the committed outputs; an empty list means that they are clean, whole and up to date."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "widgets" in notebook.metadata:
        found.append("widget state is stored")
    if sum("parameters" in cell.metadata.get("tags", []) for cell in code) != 1:
        found.append("expected exactly one cell tagged parameters")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("the cells were not run once each, from top to bottom")
    for number, cell in enumerate(code, start=1):
        where = f"code cell {number}"
        found += [f"{where} {trouble}" for output in cell.outputs for trouble in _troubles(output)]
        if "nbval-check-output" in cell.metadata.get("tags", []) and not cell.outputs:
            found.append(f"{where} is to be checked but has no output")
    if notebook.metadata.get("gdrop_viz", {}).get("outputs_of") != fingerprint(notebook):
        found.append("the outputs are not of this code and data: run python notebooks/refresh.py")
    return found


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Return the sha256 of what the outputs follow from: the code, and the bundled data that it names."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    digest = hashlib.sha256(code.encode())
    models = [path for path in ROOT.glob("data/models/*/*.safetensors") if path.parent.name in code]
    tasks = [path for path in ROOT.glob("data/tasks/*.csv") if path.stem in code]
    findings = [path for path in ROOT.glob("data/*findings/*.json") if f'"{path.parent.name}"' in code]
    for path in sorted([*models, *tasks, *findings, *ROOT.glob("data/corpus/*heldout*.txt")]):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _troubles(output: Any) -> list[str]:
    if output.output_type == "error":
        return [f"raised {output.ename}"]
    if output.output_type == "stream" and output.name == "stderr":
        return [f"wrote to stderr: {output.text.strip()[:200]!r}"]
    data = output.get("data", {})
    text = "".join(str(data.get(kind, "")) for kind in ("text/plain", "text/html")) + str(output.get("text", ""))
    troubles = [f"shows {match.group()!r}" for match in _NOT_PORTABLE.finditer(text)]
    return [*troubles, *(["keeps a widget"] if _WIDGET in data else [])]


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
