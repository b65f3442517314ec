"""Plain modules with a loss of their own: every parameter against one backward pass per sequence."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import gdrop_viz as gv


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(4, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.norm(self.convolution(x.mT)).relu().mT)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 6, batch_first=True)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.cell(x)[0])


class Scaled(nn.Module):
    """Parameters as factors, summands and a shared matrix used twice, once transposed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.shift = nn.Parameter(torch.rand(1, 3, 4))
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.matrix = nn.Parameter(torch.rand(4, 4))

    def forward(self, x):
        hidden = torch.tanh((x * self.scale + self.shift) @ self.matrix)
        return (hidden @ self.matrix.T) * self.temperature - self.scale


MODULES = {
    "perceptron": lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4)),
    "convolution": Convolution,
    "recurrent": Recurrent,
    "scaled": Scaled,
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
}
# calls whose parameters no rule covers
LOOPED = {
    "convolution": ("convolution.weight", "convolution.bias", "norm.weight", "norm.bias"),
    "recurrent": ("cell.weight_ih_l0", "cell.weight_hh_l0", "cell.bias_ih_l0", "cell.bias_hh_l0"),
    "transformer": tuple(
        f"self_attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    ),
}


def squared_error(outputs, batch):
    return (outputs - batch["labels"]).square().mean((1, 2))


@pytest.mark.parametrize("resolution", ["element", "tensor"])
@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_of_a_plain_module(name, resolution):
    torch.manual_seed(0)
    model = MODULES[name]().double().eval()
    argument = "src" if name == "transformer" else "input" if name == "perceptron" else "x"
    x, labels = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 4).double()
    expected = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
    for n in range(5):
        model.zero_grad()
        (model(x[n : n + 1]) - labels[n : n + 1]).square().mean().backward()
        for key, p in model.named_parameters():
            expected[key] += p.grad**2 / 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        batch = {argument: x, "labels": labels}
        fisher = gv.fisher_information(model, [batch], loss=squared_error, resolution=resolution, progress=False)
    assert set(fisher.looped) <= set(LOOPED.get(name, ()))
    noise = 1e-12 * max(float(score.max()) for score in expected.values())
    for key, score in expected.items():
        assert fisher.means[key] == pytest.approx(float(score.mean()), rel=1e-6, abs=noise), key
        if resolution == "element":
            torch.testing.assert_close(fisher.scores[key], score, rtol=1e-6, atol=noise)


class Widened(nn.Module):
    """A layer beside a projection of no width, as a configuration that needs none leaves it."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.extra = nn.Parameter(torch.zeros(width, 4))

    def forward(self, input):
        return self.layer(input) + nn.functional.linear(input, self.extra).sum(-1, keepdim=True)


@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
@pytest.mark.parametrize("resolution", ["element", "tensor"])
def test_parameters_without_elements_have_nothing_to_score(method, resolution):
    torch.manual_seed(0)
    model = Widened(0)
    batch = {"input": torch.randn(5, 3, 4), "labels": torch.randn(5, 3, 4)}
    settings = dict(loss=squared_error, method=method, resolution=resolution, progress=False)
    found = gv.fisher_information(model, [batch], **settings).means
    assert list(found.index) == ["layer.weight", "layer.bias"]
    alone = gv.fisher_information(model.layer, [batch], **settings).means
    assert found.tolist() == pytest.approx(alone.tolist(), rel=1e-5)  # float32
