"""Lessons by papermill with another model and task: the numbers of the headless command."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

import gdrop_viz as gv
from gdrop_viz.__main__ import app

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSON = NOTEBOOKS / "01_fisher_information.ipynb"


@pytest.mark.slow
def test_the_lesson_on_fisher_information(tmp_path):
    lesson = nbformat.read(LESSON, as_version=4)
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    end = next(n for n, cell in enumerate(code) if "fisher = gv.fisher_information" in cell.source)
    lesson.cells = [*code[: end + 1], nbformat.v4.new_code_cell("fisher.save(results)")]
    nbformat.write(lesson, tmp_path / "in.ipynb")
    settings = {"models": ["bert-mini"], "n_sequences": 8, "max_length": 24, "batch_size": 4, "seed": 3}
    pm = pytest.importorskip("papermill")
    pm.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        parameters={**settings, "results": str(tmp_path / "notebook.safetensors")},
        cwd=str(LESSON.parents[1]),
        progress_bar=False,
    )
    command = ["fisher", "--sequences", "8", "--max-length", "24", "--batch-size", "4", "--seed", "3"]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    notebook, headless = (gv.Fisher.load(tmp_path / f"{name}.safetensors") for name in ("notebook", "fisher"))
    assert notebook.means.equals(headless.means)
    assert all((notebook.scores[name] == score).all() for name, score in headless.scores.items())


@pytest.mark.slow
def test_a_whole_lesson_with_another_model_and_task(tmp_path):
    """The committed lesson as it is: only what the cell tagged parameters holds is set anew."""
    pm = pytest.importorskip("papermill")
    settings = {"n_sequences": 8, "max_length": 24, "points": 3, "n_train": 16, "n_validation": 24, "n_seeds": 2}
    done = pm.execute_notebook(
        NOTEBOOKS / "00_start_here.ipynb",
        tmp_path / "out.ipynb",
        parameters={
            **settings,
            **{"model_name": "gpt2-mini", "task_name": "rating", "upper": 0.2, "epochs": 1},
            "runs": str(tmp_path / "runs"),
        },
        cwd=str(NOTEBOOKS.parent),
        progress_bar=False,
    )
    printed = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert "8 sequences, " in printed
    assert "6 finished runs: guided 0-0.2, standard 0.1, same mean 0-0.2; metric: pearson" in printed
    panel = next(cell for cell in done.cells if "gv.DropoutLab(" in cell.source)
    assert panel.outputs[0].data["text/plain"] == "A panel: run this cell to bring it back."
    assert panel.outputs[1].data["text/plain"].startswith("guided: mean rate 0.1, ")
