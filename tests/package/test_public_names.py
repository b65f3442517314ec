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


# what takes long to import, or is not needed by everybody
HEAVY = """torch numpy transformers datasets accelerate safetensors tokenizers pandas pyarrow scipy sklearn h5py
matplotlib seaborn ipywidgets anywidget IPython distributed dask peft tqdm""".split()
CALCULATIONS = """load_pretrained pretraining_batches fisher_information top_k random_direction loss_surface
hessian_trace guided_dropout load_task compare""".split()


def imported_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `code` and not before it."""
    told = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_but_itself():
    assert imported_by("import gdrop_viz") - sys.stdlib_module_names == {"gdrop_viz"}


def test_the_commands_teach_without_torch():
    assert not imported_by("import gdrop_viz.__main__") & set(HEAVY)


def test_calculations_load_torch_and_what_it_loads():
    code = f"import gdrop_viz as gv; {'; '.join(f'gv.{name}' for name in CALCULATIONS)}"
    assert imported_by(code) & set(HEAVY) == {"torch", "numpy", "tqdm"}


@pytest.mark.parametrize("name", ["FisherExplorer", "LandscapeExplorer", "DropoutLab"])
def test_panels_load_no_library_of_pictures(name):
    assert imported_by(f"import gdrop_viz as gv; gv.{name}") & {"matplotlib", "seaborn", "transformers"} == set()
