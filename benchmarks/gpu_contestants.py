"""Contestants of the Fisher benchmark on a GPU: ours, ghost norms, `vmap`; and points of a surface side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Batch = dict[str, torch.Tensor]
Cast = Callable[[], Any]


def ours(model: nn.Module, batch: Batch, resolution: str, cast: Cast) -> Callable[[], None]:
    """One batch of a running estimation, bfloat16 in the forward, sums in float32."""
    import gdrop_viz as gv

    def run() -> None:
        with cast():
            gv.fisher_information(model, [batch], resolution=resolution, method="batched", progress=False)

    return run


def ghost_norms(model: nn.Module, batch: Batch, cast: Cast) -> None:
    """Squared per-sequence gradient norms of the linear layers, from inputs and output gradients (Li et al. 2022)."""
    norms: Batch = {}
    handles = []

    def forward(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            a = inputs[0].detach()

            def backward(g: torch.Tensor) -> None:
                if a.dim() == 3 and a.shape[0] == g.shape[0]:
                    grams = torch.bmm(a, a.transpose(1, 2)).float() * torch.bmm(g, g.transpose(1, 2)).float()
                    norms[name] = grams.sum((1, 2))

            output.register_hook(backward)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            handles.append(module.register_forward_hook(forward(name)))
    try:
        model.zero_grad(set_to_none=True)
        with cast():
            loss = model(**batch).loss
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()


def by_vmap(model: nn.Module, parameters: dict[str, nn.Parameter], batch: Batch) -> None:
    """Squared per-sequence gradients by `torch.func.vmap`, in chunks of 8 sequences."""
    from torch.func import functional_call, grad, vmap

    values = {name: parameter.detach() for name, parameter in parameters.items()}
    # no padding here: looking for it in a mask is a branch that depends on data, which vmap cannot take
    batch = {name: value for name, value in batch.items() if name != "attention_mask"}

    def loss(values: Batch, one: Batch) -> torch.Tensor:
        return functional_call(model, values, kwargs={k: v.unsqueeze(0) for k, v in one.items()}).loss

    each = vmap(grad(loss), in_dims=(None, 0), chunk_size=8, randomness="same")
    sums = {name: gradient.square().sum(0) for name, gradient in each(values, batch).items()}
    del sums


def side_by_side(model: nn.Module, batch: Batch, plane: list[Any], several: int) -> None:
    """Losses at several points at once: the weights stacked, the forward under `vmap`."""
    from torch.func import functional_call, vmap

    steps = torch.linspace(-1, 1, several, device=next(model.parameters()).device)
    stacked = {}
    for name, parameter in model.named_parameters():
        step = plane[0].vectors.get(name)
        moves = 0 if step is None else steps.view(-1, *[1] * parameter.dim()) * step.to(parameter.device)
        stacked[name] = (
            parameter.detach().unsqueeze(0)
            + moves
            + torch.zeros(several, *[1] * parameter.dim(), device=parameter.device)
        )
    unmasked = {name: value for name, value in batch.items() if name != "attention_mask"}
    with torch.no_grad():
        vmap(lambda values: functional_call(model, values, kwargs=unmasked).loss, randomness="same")(stacked)
