"""Is a direction what its formula says, filter by filter, for every kind of weight?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gdrop_viz.models.losses import sequence_losses
from gdrop_viz.perturbation import (
    Direction,
    difference_direction,
    gradient_direction,
    orthogonalized,
    random_direction,
    random_k,
    select,
)
from gdrop_viz.perturbation.filters import filter_dimensions
from tests.unchanged import unchanged
from tests.zoo import build


def by_filter(model: nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """(filters, elements), written down by hand for the layer kinds of this file."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    if type(owner).__name__ == "Conv1D":
        return tensor.T
    if isinstance(owner, nn.ConvTranspose2d):
        return tensor.transpose(0, 1).flatten(1)
    return tensor.flatten(1)


class ManyKinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.embedding = nn.Linear(5, 3), nn.Embedding(7, 4, padding_idx=0)
        self.conv, self.up, self.norm = nn.Conv2d(2, 3, 2), nn.ConvTranspose2d(2, 3, 2), nn.LayerNorm(4)


@pytest.mark.parametrize("make", [ManyKinds, lambda: build("GPT2").model, lambda: build("T5").model])
def test_each_filter_has_its_weights_norm(make):
    model = make()
    direction = random_direction(model, seed=1, move_vectors=True)
    parameters = dict(model.named_parameters())
    assert set(direction.vectors) == set(parameters)
    for name, vector in direction.vectors.items():
        got = by_filter(model, name, vector).norm(dim=1)
        torch.testing.assert_close(got, by_filter(model, name, parameters[name].detach()).norm(dim=1))


def test_the_transposed_weights_of_gpt2_are_taken_by_columns():
    model = build("GPT2").model
    weight = model.transformer.h[0].mlp.c_fc.weight
    assert weight.shape == (16, 24)
    vector = random_direction(model).vectors["transformer.h.0.mlp.c_fc.weight"]
    torch.testing.assert_close(vector.norm(dim=0), weight.detach().norm(dim=0))
    assert filter_dimensions(model)["transformer.h.0.mlp.c_fc.weight"] == (0,)


def test_vectors_stand_still_by_default(tiny_bert):
    moved = random_direction(tiny_bert).vectors
    assert set(moved) == {name for name, p in tiny_bert.named_parameters() if p.ndim > 1}


def test_masked_first_then_normalised(tiny_bert):
    chosen = random_k(tiny_bert, 0.3, seed=2)
    restricted = random_direction(tiny_bert, seed=1, selection=chosen)
    gaussian = random_direction(tiny_bert, seed=1, normalize="none")
    for name, vector in restricted.vectors.items():
        mask = chosen.mask(name)
        z = by_filter(tiny_bert, name, gaussian.vectors[name] * mask)
        theta = by_filter(tiny_bert, name, tiny_bert.get_parameter(name).detach() * mask)
        expected = z * theta.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp_min(1e-30)
        torch.testing.assert_close(by_filter(tiny_bert, name, vector), expected)
        assert not vector[~mask].any()


def test_two_selections_share_one_draw(tiny_bert):
    whole = random_direction(tiny_bert, seed=7, normalize="none")
    for chosen in (
        random_k(tiny_bert, 0.2),
        random_k(tiny_bert, 0.5, seed=9),
        select(tiny_bert, lambda n: "query" in n),
    ):
        part = random_direction(tiny_bert, seed=7, normalize="none", selection=chosen)
        for name, vector in part.vectors.items():
            assert torch.equal(vector, whole.vectors[name] * chosen.mask(name))


def test_a_draw_depends_on_nothing_but_its_seed(tiny_bert):
    torch.manual_seed(0)
    first = random_direction(tiny_bert, seed=3)
    before = torch.get_rng_state()
    torch.manual_seed(99)
    again = random_direction(copy.deepcopy(tiny_bert), seed=3)
    assert all(torch.equal(first.vectors[name], again.vectors[name]) for name in first.vectors)
    assert random_direction(tiny_bert, seed=4).cosine(first) < 0.2
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensor_normalisation_and_norm(tiny_bert):
    direction = random_direction(tiny_bert, normalize="tensor")
    for name, vector in direction.vectors.items():
        torch.testing.assert_close(vector.norm(), tiny_bert.get_parameter(name).detach().norm())
    few = random_direction(tiny_bert, selection=random_k(tiny_bert, 0.01), norm=2.5)
    assert few.norm == pytest.approx(2.5, rel=1e-6)  # float32


def test_half_precision_weights_get_float32_directions(tiny_bert):
    half = copy.deepcopy(tiny_bert).to(torch.bfloat16)
    direction = random_direction(half)
    assert {vector.dtype for vector in direction.vectors.values()} == {torch.float32}
    name = "bert.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(
        direction.vectors[name].norm(dim=1), half.get_parameter(name).detach().float().norm(dim=1)
    )


def test_tied_parameters_move_once(tiny_bert):
    assert "cls.predictions.decoder.weight" not in random_direction(tiny_bert).vectors
    assert "bert.embeddings.word_embeddings.weight" in random_direction(tiny_bert).vectors


def test_orthogonal_after_normalisation(tiny_bert):
    chosen = random_k(tiny_bert, 60)
    plain = [random_direction(tiny_bert, seed=seed, selection=chosen) for seed in range(3)]
    done = orthogonalized(*plain)
    for i in range(3):
        assert done[i].norm == pytest.approx(plain[i].norm, rel=1e-6)
        for j in range(i):
            assert abs(done[i].cosine(done[j])) < 1e-6  # float32
    with pytest.raises(ValueError, match="span"):
        orthogonalized(plain[0], plain[0].scaled(3.0))


def test_the_gradient_is_that_of_the_mean_over_sequences(tiny_bert, tiny_batches):
    tiny_bert.train()
    tiny_bert.bert.embeddings.eval()
    with unchanged(tiny_bert):
        direction = gradient_direction(tiny_bert, tiny_batches)
    tiny_bert.eval()
    losses = torch.cat([sequence_losses(tiny_bert, batch) for batch in tiny_batches])
    losses.mean().backward()
    for name, parameter in tiny_bert.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(direction.vectors[name], parameter.grad, atol=1e-7, rtol=1e-4)
    chosen = random_k(tiny_bert, 0.1)
    part = gradient_direction(tiny_bert, tiny_batches, selection=chosen, norm=1.0)
    assert part.norm == pytest.approx(1.0, rel=1e-6)
    assert not any(part.vectors[name][~chosen.mask(name)].any() for name in part.vectors)


def test_the_difference_of_two_checkpoints_of_one_backbone(tiny_bert):
    from transformers import BertForSequenceClassification

    other = BertForSequenceClassification(tiny_bert.config)
    way = difference_direction(tiny_bert, other)
    assert set(way.vectors) == {name for name, _ in tiny_bert.named_parameters() if name.startswith("bert.")}
    name = "bert.encoder.layer.1.output.dense.bias"
    torch.testing.assert_close(
        way.vectors[name], other.get_parameter(name).detach() - tiny_bert.get_parameter(name).detach()
    )
    with pytest.raises(ValueError, match="one backbone"):
        difference_direction(tiny_bert, {"elsewhere": torch.zeros(2)})
    with pytest.raises(ValueError, match="shape"):
        difference_direction(tiny_bert, {"bert.embeddings.word_embeddings.weight": torch.zeros(2, 16)})


def test_a_saved_direction_is_the_same(tiny_bert, tmp_path):
    direction = random_direction(tiny_bert, seed=4, selection=random_k(tiny_bert, 0.1))
    direction.save(tmp_path / "d.safetensors")
    again = Direction.load(tmp_path / "d.safetensors")
    assert all(torch.equal(again.vectors[name], direction.vectors[name]) for name in direction.vectors)
    assert list(again.vectors) == list(direction.vectors)
    assert (again.label, again.seed, again.normalize, again.selection) == (
        direction.label, direction.seed, direction.normalize, direction.selection,
    )  # fmt: skip


def test_bad_arguments_are_named(tiny_bert):
    with pytest.raises(ValueError, match="'filter', 'tensor', 'none'"):
        random_direction(tiny_bert, normalize="layer")
    with pytest.raises(ValueError, match="move_vectors=True"):
        random_direction(tiny_bert, selection=select(tiny_bert, lambda name: name.endswith("bias")))
    with pytest.raises(ValueError, match="norm as a number above 0"):
        random_direction(tiny_bert, norm=-1.0)
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module or a Pretrained"):
        random_direction("bert-mini")
    with pytest.raises(TypeError, match="expected selection as a Selection"):
        random_direction(tiny_bert, selection=["bert"])
    with pytest.raises(ValueError, match="expected a model with the selected parameter"):
        random_direction(tiny_bert, selection=random_k(nn.Linear(3, 3), 2))
    with pytest.raises(ValueError, match="at least one batch"):
        gradient_direction(tiny_bert, [])
