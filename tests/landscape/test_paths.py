"""Are barriers and projections those of paths that are known in closed form?"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gdrop_viz.landscape import LossLine, Trajectory, loss_line, project_trajectory, trajectory_directions
from gdrop_viz.models.losses import sequence_losses
from gdrop_viz.models.pretrained import Pretrained
from gdrop_viz.perturbation import Direction, Selection, random_direction, select
from gdrop_viz.perturbation.checkpoints import weights_of
from tests.conftest import random_bert, word_tokenizer


class Valley(nn.Module):
    """The loss is a function of one weight, the same for every sequence up to a factor."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([at], dtype=torch.float64))

    def forward(self, input):
        return (self.weight**2 - 1) ** 2 * input[:, 0]


BATCH = [{"input": torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)}]


def plain(outputs, batch):
    return outputs


def test_the_barrier_between_two_wells():
    line = loss_line(Valley(-1.0), Valley(1.0), BATCH, points=9, loss=plain, progress=False)
    np.testing.assert_allclose(line.t, np.linspace(0, 1, 9))
    np.testing.assert_allclose(line.loss, 2 * ((2 * line.t - 1) ** 2 - 1) ** 2, atol=1e-12)
    assert line.barrier == pytest.approx(2.0)  # at t = 1/2 the losses are 1, 2, 3
    assert line.barrier_standard_error == pytest.approx(1 / np.sqrt(3))
    assert line.to_frame()["excess"].max() == pytest.approx(2.0)


def test_a_tasks_loss_between_two_classifiers(tiny_bert):
    """What lies between a guided and a standard fine-tune: the loss is then the task's."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(2)
    one, other = (BertForSequenceClassification(tiny_bert.config).eval() for _ in range(2))
    batch = {"input_ids": torch.randint(5, 20, (6, 7)), "labels": torch.tensor([0, 1, 1, 0, 1, 0])}
    line = loss_line(one, other, [batch], points=5, progress=False)
    for model, loss in ((one, line.loss[0]), (other, line.loss[-1])):
        with torch.no_grad():
            assert loss == pytest.approx(float(model(**batch).loss), rel=1e-5)
    assert line.barrier >= 0


def test_the_line_goes_on_beyond_its_ends():
    line = loss_line(Valley(-1.0), Valley(1.0), BATCH, points=5, beyond=0.3, loss=plain, progress=False)
    np.testing.assert_allclose(line.t, np.arange(-2, 7) / 4)
    assert {0.0, 1.0} <= set(line.t)
    assert line.barrier == pytest.approx(2.0)  # what lies beyond the ends is not the barrier
    assert np.isnan(line.to_frame()["excess"]).sum() == 4


def test_the_ends_are_the_two_checkpoints(tiny_bert, tiny_batches, tmp_path):
    from transformers import BertForSequenceClassification

    torch.manual_seed(1)
    tuned = BertForSequenceClassification(tiny_bert.config).eval()
    line = loss_line(tiny_bert, tuned, tiny_batches, points=3, path=tmp_path / "line.h5", progress=False)
    ends = copy.deepcopy(tiny_bert)
    ends.load_state_dict(tuned.state_dict(), strict=False)  # its backbone, with the old head
    ends.tie_weights()
    for model, loss in ((tiny_bert, line.loss[0]), (ends, line.loss[-1])):
        with torch.no_grad():
            expected = torch.cat([sequence_losses(model, batch) for batch in tiny_batches]).mean()
        assert loss == pytest.approx(float(expected), rel=1e-6)
    again = loss_line(tiny_bert, tuned, tiny_batches, points=3, path=tmp_path / "line.h5", progress=False)
    assert (again.loss == line.loss).all()
    loaded = LossLine.load(tmp_path / "line.h5")
    assert (loaded.t == line.t).all()
    assert repr(loaded) == repr(line)


@pytest.fixture
def walk():
    """Steps along two known directions of different length, and a third that is perpendicular to both."""
    model = nn.Linear(3, 2, bias=False).double()
    base = model.weight.detach()
    axes = torch.eye(6, dtype=torch.float64).reshape(6, 2, 3)
    d1, d2 = Direction({"weight": 2 * axes[0]}), Direction({"weight": axes[0] + 3 * axes[1]})
    steps = np.array([[0.5, 0.0, 0.3], [1.0, -1.0, 0.1], [2.0, 0.5, 0.0]])
    path = [{"weight": base + x * d1.vectors["weight"] + y * d2.vectors["weight"] + z * axes[5]} for x, y, z in steps]
    return model, path, (d1, d2), steps


def test_projection_onto_a_skew_plane(walk, tmp_path):
    model, path, plane, steps = walk
    trajectory = project_trajectory(model, path, plane)
    np.testing.assert_allclose(trajectory.coordinates, steps[:, :2], atol=1e-12)
    # a difference of squares: half of float64's digits
    np.testing.assert_allclose(trajectory.off_plane, steps[:, 2], atol=1e-7)
    whole = [float((one["weight"] - model.weight.detach()).square().sum()) for one in path]
    np.testing.assert_allclose(trajectory.distances**2, whole)
    assert trajectory.explained == pytest.approx(1 - (steps[:, 2] ** 2).sum() / sum(whole))
    trajectory.save(tmp_path / "t.safetensors")
    assert Trajectory.load(tmp_path / "t.safetensors").to_frame().equals(trajectory.to_frame())


def test_principal_components_hold_more_than_any_other_plane(walk):
    model, path, plane, _ = walk
    d1, d2 = trajectory_directions(model, path)
    assert abs(d1.cosine(d2)) < 1e-12
    best = project_trajectory(model, path, (d1, d2)).explained
    differences = np.stack([(one["weight"] - model.weight).detach().numpy().ravel() for one in path])
    singular = np.linalg.svd(differences, compute_uv=False)
    assert best == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum())
    assert best >= project_trajectory(model, path, plane).explained


def test_principal_components_of_a_selection(walk):
    model, path, _, steps = walk
    few = select(model, ["weight"]) & Selection.from_masks(
        {"weight": torch.tensor([[True, True, False], [False] * 3])}, {"weight": (2, 3)}, "two elements"
    )
    d1, d2 = trajectory_directions(model, path, selection=few)
    assert not any(d.vectors["weight"][0, 2:].any() or d.vectors["weight"][1].any() for d in (d1, d2))
    seen = project_trajectory(model, path, (d1, d2))
    # the elements 0 and 1 move by (2x + y, 3y), and by nothing else
    inside = np.stack([2 * steps[:, 0] + steps[:, 1], 3 * steps[:, 1]], axis=1)
    np.testing.assert_allclose(seen.distances**2 - seen.off_plane**2, (inside**2).sum(axis=1), atol=1e-9)


def test_checkpoints_may_lie_on_disk(walk, tmp_path):
    model, path, plane, steps = walk
    files = []
    for i, checkpoint in enumerate(path):
        (tmp_path / f"step{i}").mkdir()
        save_file(checkpoint, tmp_path / f"step{i}" / "model.safetensors")
        files.append(tmp_path / f"step{i}")
    np.testing.assert_allclose(project_trajectory(model, files, plane).coordinates, steps[:, :2], atol=1e-12)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        project_trajectory(model, [tmp_path / "none"], plane)


def test_bad_arguments_are_named(walk):
    model, path, plane, _ = walk
    with pytest.raises(ValueError, match="parallel"):
        project_trajectory(model, path, (plane[0], plane[0].scaled(3.0)))
    with pytest.raises(ValueError, match="two directions"):
        project_trajectory(model, path, plane[:1])
    with pytest.raises(ValueError, match="sequence of at least one checkpoint"):
        project_trajectory(model, [], plane)
    with pytest.raises(ValueError, match="fewer than two"):
        trajectory_directions(model, path[:1])
    with pytest.raises(ValueError, match="points"):
        loss_line(model, path[0], BATCH, points=2)
    with pytest.raises(ValueError, match="one backbone"):
        loss_line(model, {"other": torch.zeros(1)}, BATCH)
    with pytest.raises(ValueError, match="norm as a number above 0"):
        random_direction(model, norm=0.0)


def test_a_damaged_checkpoint_is_named(tmp_path):
    lm = Pretrained(random_bert(1), word_tokenizer(), objective="mlm")
    model, plane = random_bert(), [random_direction(random_bert(), seed=seed) for seed in (0, 1)]
    file = lm.save(tmp_path / "step 9") / "model.safetensors"
    expected = project_trajectory(model, [tmp_path / "step 9"], plane).coordinates
    assert (project_trajectory(model, [file], plane).coordinates == expected).all()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a valid file of other weights
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its checksum does not fit"):
        project_trajectory(model, [tmp_path / "step 9"], plane)
    for content in (b"", whole[:100], whole[:-1]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or not a safetensors file"):
            weights_of(file)
