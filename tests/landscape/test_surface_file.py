"""Do surfaces come back as they were, from this package's files and from those of the loss-landscape project?"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import h5py
import numpy as np
import pandas as pd
import pytest

from gdrop_viz.landscape import Surface

X, Y = np.array([-1.0, 0.0, 1.0]), np.array([-2.0, -1.0, 0.0, 1.0])


def value(x, y):
    return 3 + x + 0.1 * y


def as_loss_landscape_does(values: np.ndarray) -> np.ndarray:
    """What that project's plot_surface.py does: an (nx, ny) array, filled by flat index over meshgrid(x, y)."""
    losses = -np.ones((len(X), len(Y)))
    mesh_x, mesh_y = np.meshgrid(X, Y)
    for index, (x, y) in enumerate(zip(mesh_x.ravel(), mesh_y.ravel(), strict=True)):
        losses.ravel()[index] = values(x, y)
    return losses


@pytest.mark.parametrize("flat", [False, True])
def test_their_files_are_read_with_x_fastest(tmp_path, flat):
    losses = as_loss_landscape_does(value)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["dir_file"] = "directions.h5"
        file["xcoordinates"], file["ycoordinates"] = X, Y
        file["train_loss"] = losses.ravel() if flat else losses
        file["train_acc"] = 100 - losses
    surface = Surface.load(tmp_path / "theirs.h5")
    np.testing.assert_array_equal(surface.loss, value(X[:, None], Y[None]))
    np.testing.assert_array_equal(surface.metrics["train_acc"], 100 - surface.loss)
    assert surface.metadata["dir_file"] == "directions.h5"
    assert surface.is_complete


def test_what_they_have_not_computed_yet_is_not_known(tmp_path):
    losses = as_loss_landscape_does(value)
    losses.ravel()[5] = -1  # x[2], y[1]
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["xcoordinates"], file["ycoordinates"], file["train_loss"] = X, Y, losses
    surface = Surface.load(tmp_path / "theirs.h5")
    assert np.argwhere(~surface.evaluated).tolist() == [[2, 1]]
    assert np.isnan(surface.loss[2, 1])


def test_our_files_have_their_layout(tmp_path):
    Surface(X, Y, value(X[:, None], Y[None])).save(tmp_path / "ours.h5")
    with h5py.File(tmp_path / "ours.h5") as file:
        np.testing.assert_array_equal(file["xcoordinates"], X)
        np.testing.assert_array_equal(file["ycoordinates"], Y)
        np.testing.assert_array_equal(file["train_loss"][()], as_loss_landscape_does(value))
        assert "dir_file" in file
    Surface(X, None, value(X, 0)).save(tmp_path / "line.h5")
    with h5py.File(tmp_path / "line.h5") as file:
        assert "ycoordinates" not in file
        np.testing.assert_array_equal(file["train_loss"], value(X, 0))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_everything_comes_back(tmp_path, dimensions):
    rng = np.random.default_rng(0)
    shape = (3, 4)[:dimensions]
    sequences = rng.normal(size=(*shape, 6))
    loss = sequences.mean(-1)
    loss.flat[0], loss.flat[1] = np.inf, np.nan
    evaluated = np.ones(shape, dtype=bool)
    evaluated.flat[2] = False
    surface = Surface(
        X, Y if dimensions == 2 else None, np.where(evaluated, loss, np.nan), rng.random(shape), sequences,
        {"accuracy": rng.random(shape) * np.where(evaluated, 1, np.nan)}, evaluated,
        {"label": "a", "directions": [{"label": "d", "norm": 2.0}]},
    )  # fmt: skip
    surface.save(tmp_path / "s.h5")
    again = Surface.load(tmp_path / "s.h5")
    for name in ("x", "y", "loss", "standard_error", "sequence_losses", "evaluated"):
        np.testing.assert_array_equal(getattr(again, name), getattr(surface, name))
    np.testing.assert_array_equal(again.metrics["accuracy"], surface.metrics["accuracy"])
    assert again.metadata == surface.metadata
    assert again.n_diverged == 2


def test_csv_has_one_row_per_point(tmp_path):
    surface = Surface(X, Y, value(X[:, None], Y[None]))
    surface.save(tmp_path / "s.csv")
    frame = pd.read_csv(tmp_path / "s.csv")
    assert len(frame) == 12
    np.testing.assert_allclose(frame["loss"], value(frame["x"], frame["y"]))


def test_vtk_is_a_sheet_with_the_loss_as_height(tmp_path):
    loss = value(X[:, None], Y[None])
    loss[0, 0] = np.inf
    Surface(X, Y, loss).save(tmp_path / "s.vts")
    raw = (tmp_path / "s.vts").read_bytes()
    head, _, data = raw.partition(b'<AppendedData encoding="raw">')
    tree = ElementTree.fromstring(head + b"</VTKFile>")
    assert tree.find("StructuredGrid").get("WholeExtent") == "0 2 0 3 0 0"
    arrays = {array.get("Name"): int(array.get("offset")) for array in tree.iter("DataArray")}
    data = data[data.index(b"_") + 1 :]

    def array(name):
        start = arrays[name]
        length = int(np.frombuffer(data[start : start + 8], "<u8")[0])
        return np.frombuffer(data[start + 8 : start + 8 + length], "<f8")

    points = array("points").reshape(-1, 3)  # VTK: the first index varies fastest
    expected = np.where(np.isfinite(loss), loss, loss[np.isfinite(loss)].max())
    np.testing.assert_allclose(points[:, 0].reshape(4, 3).T, np.broadcast_to(X[:, None], (3, 4)))
    np.testing.assert_allclose(points[:, 2].reshape(4, 3).T, expected)
    np.testing.assert_array_equal(array("loss").reshape(4, 3).T, loss)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Surface.load(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="readable HDF5"):
        Surface.load(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["xcoordinates"] = X
    with pytest.raises(ValueError, match="without 'train_loss'"):
        Surface.load(tmp_path / "other.h5")
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file["xcoordinates"], file["ycoordinates"], file["train_loss"] = X, Y, np.zeros(7)
    with pytest.raises(ValueError, match=r"12 values .* got 7"):
        Surface.load(tmp_path / "short.h5")
    with pytest.raises(ValueError, match=r"ends in \.h5"):
        Surface(X, Y, np.zeros((3, 4))).save(tmp_path / "s.png")
    with pytest.raises(ValueError, match="2-D surface"):
        Surface(X, None, np.zeros(3)).save(tmp_path / "s.vts")
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        Surface(X, Y, np.zeros((4, 3)))
