"""The public names exist, load lazily, and nothing heavy is imported before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gdrop_viz as gv

CONTRACT = """load_pretrained Pretrained pretraining_batches fisher_information Fisher top_k bottom_k random_k
random_direction loss_surface Surface hessian_spectrum hessian_trace dropout_sites guided_dropout uniform_dropout
measured_dropout gaussian_dropout load_task compare FisherExplorer LandscapeExplorer DropoutLab""".split()
PICTURES = """fisher_profile fisher_heatmap fisher_concentration surface_contour surface_3d compare_surfaces
dropout_rates comparison""".split()


@pytest.mark.parametrize("name", sorted({*CONTRACT, *gv.__all__} - {"plots"}))
def test_a_public_name_loads_and_is_documented(name):
    assert getattr(gv, name).__doc__


@pytest.mark.parametrize("name", sorted({*PICTURES, *gv.plots.__all__}))
def test_a_picture_loads_and_is_documented(name):
    assert callable(getattr(gv.plots, name))
    assert getattr(gv.plots, name).__doc__


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="load_pretrained"):
        gv.load_pretraned  # noqa: B018
    with pytest.raises(AttributeError, match="fisher_heatmap"):
        gv.plots.heat  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, gdrop_viz as gv; gv.fisher_information; gv.guided_dropout; gv.loss_surface;"
        "print([m for m in ('transformers', 'pandas', 'seaborn', 'matplotlib', 'datasets', 'h5py', 'ipywidgets',"
        " 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_takes_less_than_a_second_beyond_torch():
    code = "import time, torch; t = time.process_time(); import gdrop_viz; print(time.process_time() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 1


def test_lower_layers_do_not_import_higher_ones():
    import ast
    from pathlib import Path

    package = Path(gv.__file__).parent
    order = ["widgets", "plots", "finetuning", "dropout", "landscape", "fisher"]
    above = {"plots": {"widgets"}, **{name: {"widgets", "plots"} for name in order[2:]}}
    for name, forbidden in above.items():
        for path in (package / name).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                parts = (module or "").split(".")
                assert not (parts[0] == "gdrop_viz" and len(parts) > 1 and parts[1] in forbidden), path
