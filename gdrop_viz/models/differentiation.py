"""Derivatives of a model's losses: which parameters have them, in which surroundings, and what hides them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

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
    except (RuntimeError, AssertionError) as error:  # a function of the model's own may assert what it needs
        _explain(error)


def trainable(parameters: Mapping[str, Tensor]) -> set[str]:
    """Return the names of parameters that want gradients; of all where none does, as in a frozen model."""
    return {name for name, parameter in parameters.items() if parameter.requires_grad} or set(parameters)


def check_known(
    model: nn.Module,
    losses: Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    found: Sequence[Tensor | None],
    names: Collection[str],
) -> None:
    """Raise ValueError if a parameter without a gradient changes the losses all the same.

    Reentrant checkpointing and `no_grad` in a forward hide parameters from autograd: no error, a wrong derivative.
    Those without a gradient are moved, all together, by a hundredth of their size and by an eighth of that; if the
    losses follow in proportion, they do depend on them. A choice (of experts, say) would jump instead, and a
    parameter that takes no part changes nothing. A table that its own module keeps fixed is a constant for the
    model's own training too: it is so here, and a RuntimeWarning names it (see `kept_fixed`).

    Parameters
    ----------
    model
        The model; the `requires_grad` of the parameters is set, and the surroundings are those of `found`.
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

    if not hidden or not follows(list(hidden)):
        return
    some = any(gradient is not None for gradient in found)  # where there is none at all, nothing is told apart
    fixed = kept_fixed(model, losses, hidden) if some else set()
    others = [name for name in hidden if name not in fixed]
    if others and follows(others):
        guilty = [name for name in others if follows([name])] or others
        raise ValueError(
            f"expected losses that can be differentiated, got none by {few(guilty)} although they change with it: "
            "reentrant checkpointing or no_grad in the model's forward hides it; use checkpoint(..., "
            "use_reentrant=False)"
        )
    tables = few([name for name in hidden if name in fixed])
    warnings.warn(
        f"{tables}: kept fixed by its own module, so plain backward() gives it no gradient either. It is a constant "
        "here: its derivatives are 0.",
        RuntimeWarning,
        stacklevel=2,
    )


def kept_fixed(model: nn.Module, losses: Callable[[], Tensor], parameters: Mapping[str, Tensor]) -> set[str]:
    """Return the names of parameters that their own module keeps fixed, as sinusoidal positions; found by a forward.

    Such a module is called with gradients enabled and gives outputs that have none, in each of its calls, and takes
    no floats in, only positions, tokens or shapes: so no more than its own table is without a gradient. Where the
    module's caller hides it (`no_grad`, `detach`, reentrant checkpointing), or activations pass through it, that is
    no table, and may be a mistake.
    """
    owners = {
        module: [name for name, p in parameters.items() if any(p is own for own in module.parameters(recurse=False))]
        for module in model.modules()
    }
    seen: dict[str, list[bool]] = {name: [] for name in parameters}
    enabled: list[bool] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        enabled.append(torch.is_grad_enabled())

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs, outputs = (
            [x for x in tree_leaves(values) if isinstance(x, Tensor)] for values in ((args, kwargs), output)
        )
        fixed = enabled.pop() and not any(x.is_floating_point() for x in inputs)
        fixed = fixed and bool(outputs) and not any(x.requires_grad for x in outputs)
        for name in owners[module]:
            seen[name].append(fixed)

    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # compiled code does not call hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module, names in owners.items():
            if names:
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        _same_draws(losses)
    return {name for name, calls in seen.items() if calls and all(calls)}


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


def _explain(error: Exception) -> NoReturn:
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
