"""The committed outputs of the lessons: clean, whole, and those of this code and data."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def load_refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", NOTEBOOKS / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = load_refresh()


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_there_are_five_lessons() -> None:
    assert [path.stem[:2] for path in LESSONS] == ["00", "01", "02", "03", "04"]


def test_outputs_are_clean_and_up_to_date(lesson: nbformat.NotebookNode) -> None:
    assert refresh.problems(lesson) == []


def test_a_reader_without_a_kernel_sees_pictures_and_numbers(lesson: nbformat.NotebookNode) -> None:
    outputs = [output for cell in lesson.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    checked = [cell for cell in lesson.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(checked) >= 2


def test_each_lesson_teaches(lesson: nbformat.NotebookNode) -> None:
    """A question, a formula, a prediction, something to try, exercises with folded solutions, and the way on."""
    text = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    for part in ("uestion", "Predict", "Try it", "## Exercises", "<summary>Solution</summary>", "$$"):
        assert part in text, part
    assert text.count("<details>") == text.count("</details>") >= 3
    exercises = text.split("## Exercises")[1]
    assert len(re.findall(r"^\*\*[A-Z]\.\*\*", exercises, re.MULTILINE)) == exercises.count("<summary>Solution") >= 3


def test_a_prediction_is_asked_for_before_the_cell_that_reveals_it(lesson: nbformat.NotebookNode) -> None:
    asked = [at for at, cell in enumerate(lesson.cells) if cell.cell_type == "markdown" and "**Predict" in cell.source]
    assert asked
    for at in asked:
        assert lesson.cells[at + 1].cell_type == "code"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_last_words_lead_on(path: Path) -> None:
    """To the next lesson, and from the last one back to the start; every link leads to a lesson that is there."""
    cells = nbformat.read(path, as_version=4).cells
    following = {one: other.name for one, other in zip(LESSONS, [*LESSONS[1:], LESSONS[0]], strict=True)}
    assert f"]({following[path]})" in cells[-1].source
    text = "\n".join(cell.source for cell in cells)
    assert all((NOTEBOOKS / name).is_file() for name in re.findall(r"\]\((\w+\.ipynb)\)", text))


def test_a_lesson_with_a_widget_keeps_a_static_picture(lesson: nbformat.NotebookNode) -> None:
    cells = [
        cell for cell in lesson.cells if re.search(r"gv\.(DropoutLab|FisherExplorer|LandscapeExplorer)\(", cell.source)
    ]
    cells = [cell for cell in cells if cell.cell_type == "code"]
    assert cells
    for cell in cells:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda nb: nb.cells[0].update(source="print(1)"), "not of this code"),
        (lambda nb: nb.metadata.update(widgets={}), "widget state"),
        (lambda nb: nb.cells[0].update(outputs=[]), "no output"),
        (lambda nb: nb.cells[0].outputs[0].update(text="see /home/me/file.py"), "/home/me/file.py"),
        (lambda nb: nb.cells[0].outputs[0].update(name="stderr"), "stderr"),
        (lambda nb: nb.cells[0].update(execution_count=7), "top to bottom"),
    ],
)
def test_what_is_wrong_is_named(damage, said: str) -> None:
    cell = nbformat.v4.new_code_cell("print(2 + 2)", metadata={"tags": ["parameters", "nbval-check-output"]})
    cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", name="stdout", text="4\n")], 1
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    notebook.metadata["gdrop_viz"] = {"outputs_of": refresh.fingerprint(notebook)}
    assert refresh.problems(notebook) == []
    damage(notebook)
    assert any(said in problem for problem in refresh.problems(notebook))


def test_cleaning_drops_progress_bars_joins_streams_and_keeps_pictures_of_widgets() -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    bar = nbformat.v4.new_output("display_data", data={**view, "text/plain": "0 %"})
    panel = nbformat.v4.new_output("execute_result", data={**view, "image/png": "aGk=", "text/plain": "rates"})
    dots = [nbformat.v4.new_output("stream", name="stdout", text=".") for _ in range(3)]
    cell = nbformat.v4.new_code_cell(
        "lab", outputs=[bar, *dots, panel], metadata={"execution": {"iopub.execute_input": "now"}}
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    refresh.clean(notebook)
    assert cell.outputs[0].text == "..."
    assert [dict(output.data) for output in cell.outputs[1:]] == [{"image/png": "aGk=", "text/plain": "rates"}]
    assert cell.metadata == {}
    assert "widgets" not in notebook.metadata
