"""Derivatives of a model's losses: which parameters have them, in which surroundings, and what hides them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gdrop_viz.base.checks import few, finite_weights
from gdrop_viz.base.state import preserved_rng
from gdrop_viz.models.devices import check_weights_present

_NUDGE = 1e-2  # of a tensor's root mean square


def differentiable(parameter: Tensor) -> bool:
    """Whether a parameter's type has gradients: a float of at least 16 bits, no integer and no 8-bit storage format.

    >>> differentiable(torch.zeros(2)), differentiable(torch.zeros(2, dtype=torch.int8))
    (True, False)
    """
    return parameter.is_floating_point() and parameter.dtype.itemsize > 1


def check_weights(model: nn.Module) -> None:
    """Raise ValueError, naming the first, for weights that are not in memory, not finite, or unknown to autograd."""
    check_weights_present(model)
    weights = {name: parameter for name, parameter in model.named_parameters() if differentiable(parameter)}
    if (made := next((name for name, parameter in weights.items() if parameter.is_inference()), None)) is not None:
        raise ValueError(
            f"expected weights that can be differentiated, got {made!r} made inside torch.inference_mode(); load the "
            "model outside of it"
        )
    finite_weights(weights.items())


def recordable(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the batch with copies of tensors that were made in inference mode, which autograd refuses."""
    return {
        name: value.clone() if isinstance(value, Tensor) and value.is_inference() else value
        for name, value in batch.items()
    }


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Compute with gradients and in the model's own precision, whatever autocast, no_grad or inference_mode is around.

    Autocast would give the numbers of another precision, from copies of the weights that it keeps when they move.
    """
    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in {"cpu", accelerator.type if accelerator is not None else "cpu"}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def gradients(
    losses: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool | None = None
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the sum of `losses`: None for a parameter, or for all, that autograd does not know of.

    Raises ValueError, in one line, where autograd cannot differentiate (once more).
    """
    if not losses.requires_grad:
        return (None,) * len(parameters)
    try:
        return torch.autograd.grad(
            losses.sum(), parameters, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _explain(error)


def trainable(parameters: Mapping[str, Tensor]) -> set[str]:
    """Return the names of parameters that want gradients; of all where none does, as in a frozen model."""
    return {name for name, parameter in parameters.items() if parameter.requires_grad} or set(parameters)


def check_known(
    losses: Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    found: Sequence[Tensor | None],
    names: Collection[str],
) -> None:
    """Raise ValueError if a parameter without a gradient changes the losses all the same.

    Reentrant checkpointing and `no_grad` in a forward hide parameters from autograd: no error, a wrong derivative.
    Those without a gradient are moved, all together, by a hundredth of their size and by an eighth of that; if the
    losses follow in proportion, they do depend on them. A choice (of experts, say) would jump instead, and a
    parameter that takes no part changes nothing.

    Parameters
    ----------
    losses
        Computes the losses anew.
    parameters, found
        The parameters, and the gradient of each.
    names
        Those that are judged. What a model keeps fixed by itself, as tables of positions, has no gradient by design.
    """
    pairs = zip(parameters.items(), found, strict=True)
    hidden = {name: p for (name, p), gradient in pairs if gradient is None and name in names}

    def follows(moving: Sequence[str]) -> bool:
        with torch.no_grad():
            before = _same_draws(losses)
            steps = {name: _NUDGE * _signs(hidden[name]) * _size(hidden[name]) for name in moving}
            changes = []
            for share in (1.0, 0.125):
                with moved(hidden, steps, share):
                    changes.append(float((_same_draws(losses) - before).double().norm()))
        rounding = 8 * torch.finfo(before.dtype).eps * float(before.double().norm())
        return changes[1] > rounding and 4 < changes[0] / changes[1] < 16

    if hidden and follows(list(hidden)):
        guilty = [name for name in hidden if follows([name])] or list(hidden)
        raise ValueError(
            f"expected losses that can be differentiated, got none by {few(guilty)} although they change with it: "
            "reentrant checkpointing or no_grad in the model's forward hides it; use checkpoint(..., "
            "use_reentrant=False)"
        )


@contextmanager
def moved(parameters: Mapping[str, Tensor], steps: Mapping[str, Tensor], factor: float) -> Iterator[None]:
    """Add `factor` times the `steps` to the parameters of those names for a while; the weights come back bit by bit."""
    with torch.no_grad():
        before = {name: parameters[name].detach().clone() for name in steps}
    try:
        with torch.no_grad():
            for name, step in steps.items():
                parameters[name].add_(step, alpha=factor)
        yield
    finally:
        with torch.no_grad():
            for name, weights in before.items():
                parameters[name].copy_(weights)


def _explain(error: RuntimeError) -> NoReturn:
    why = " ".join(str(error).split())
    if "use_reentrant" in why or "checkpoint" in why.lower():
        remedy = "the model's forward uses reentrant checkpointing: use checkpoint(..., use_reentrant=False)"
    else:
        remedy = "run the model's plain form: eager attention, no fused or compiled functions, or another loss="
    raise ValueError(f"expected losses that can be differentiated, got from autograd: {why[:160]}; {remedy}") from error


def _same_draws(losses: Callable[[], Tensor]) -> Tensor:
    with preserved_rng(0):
        return losses().detach()


def _size(parameter: Tensor) -> float:
    return float(parameter.detach().float().square().mean().sqrt()) or 1.0


def _signs(parameter: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, parameter.shape, generator=generator, dtype=torch.int8) * 2 - 1
    return signs.to(parameter.device, parameter.dtype)
