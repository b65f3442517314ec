"""Arms that use scores on the weights themselves: elastic weight consolidation, sparse and frozen training, mixout.

Each is held against guided dropout as another use of the same information, with an equal-size random control made by
`random_k` or `Selection.random_like`. They act on the weights that the classifier has from the pretrained model; a new
head, and BERT's pooler, are trained as in any other arm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gdrop_viz.base.checks import few, instance, number
from gdrop_viz.finetuning.arms import WeightArm
from gdrop_viz.fisher import Fisher
from gdrop_viz.models.anatomy import place_of
from gdrop_viz.models.backbone import backbone_of
from gdrop_viz.perturbation import Selection

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class EWCArm(WeightArm):
    """An arm with elastic weight consolidation: a quadratic pull back to the pretrained weights, by information.

    The training loss becomes L + (strength / 2) Σ_i F_i (θ_i - θ0_i)², over the elements of all pretrained weights that
    `fisher` knows. Scores of whole tensors count for each of their elements. The loss that is recorded for the train
    split holds the penalty; validation losses do not. Source: Kirkpatrick et al. 2017, "Overcoming catastrophic
    forgetting in neural networks".

    Parameters
    ----------
    fisher
        Fisher information of the pretrained model.
    strength
        λ, in units of one sequence: F is of a mean loss over the tokens of a sequence.
    dropout
        Any other arm, by default no dropout.
    """

    fisher: Fisher = field(repr=False)
    strength: float
    dropout: Any = 0.0

    def __post_init__(self) -> None:
        instance(self.fisher, Fisher, "fisher", "fisher_information")
        number(self.strength, "strength", least=0)

    def content(self) -> tuple[Any, ...]:
        """Return what determines the arm beside its dropout."""
        return self._scores(), float(self.strength)

    def prepare(self, classifier: nn.Module) -> None:
        """Add the penalty to the loss of `classifier` in training mode."""
        scores = self._scores()
        terms = []
        for name, parameter in pretrained_parameters(classifier, scores).items():
            score = torch.as_tensor(scores[name], dtype=parameter.dtype)
            if score.ndim:
                _check_shape(name, parameter, score.shape)
            terms.append((parameter, parameter.detach().clone(), score.expand(parameter.shape)))

        def add_penalty(module: nn.Module, arguments: Any, output: Any) -> Any:
            if module.training and getattr(output, "loss", None) is not None:
                penalty = output.loss.new_zeros(())
                for parameter, start, score in terms:
                    away = parameter - start.to(parameter.device)
                    penalty = penalty + (score.to(parameter.device) * away.square()).sum().to(penalty.dtype)
                output.loss = output.loss + 0.5 * self.strength * penalty
            return output

        classifier.register_forward_hook(add_penalty)

    def _scores(self) -> dict[str, Tensor | float]:
        if self.fisher.scores is not None:
            return dict(self.fisher.scores)
        return {str(name): float(mean) for name, mean in self.fisher.means.items()}


@dataclass(frozen=True)
class FrozenArm(WeightArm):
    """An arm whose selected pretrained elements stay bit for bit as they were; everything else is trained.

    Parameters
    ----------
    selection
        Elements of the pretrained model, such as `top_k(fisher, 0.1)`. Those of its own head are not in a classifier.
    dropout
        Any other arm, by default no dropout.
    """

    selection: Selection
    dropout: Any = 0.0

    def __post_init__(self) -> None:
        instance(self.selection, Selection, "selection", "top_k")

    def content(self) -> tuple[Any, ...]:
        """Return what determines the arm beside its dropout."""
        return sorted(self.selection.shapes), dict(self.selection.masks)

    def prepare(self, classifier: nn.Module) -> None:
        """Let no gradient reach the frozen elements of `classifier`."""
        for parameter, frozen in self._frozen(classifier):
            if bool(frozen.all()):
                parameter.requires_grad_(False)
            elif parameter.requires_grad:
                parameter.register_hook(_Masked(frozen))

    def callbacks(self, classifier: nn.Module) -> list[TrainerCallback]:
        """Return the callback that undoes what the optimizer does without a gradient: weight decay, momentum."""
        from gdrop_viz.finetuning.trainer import KeptElements

        trained = [(parameter, frozen) for parameter, frozen in self._frozen(classifier) if parameter.requires_grad]
        return [KeptElements([(parameter, parameter.detach().clone(), frozen) for parameter, frozen in trained])]

    def _frozen(self, classifier: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Return each parameter that has frozen elements, with their mask."""
        found = []
        for name, parameter in pretrained_parameters(classifier, self.selection.shapes).items():
            frozen = self._frozen_part(self._selected(name, parameter))
            if bool(frozen.any()):
                found.append((parameter, frozen))
        return found

    def _selected(self, name: str, parameter: Tensor) -> Tensor:
        # shapes are unknown where the scores came from elsewhere; the selection is then of whole tensors
        if (shape := self.selection.shapes[name]) is not None:
            _check_shape(name, parameter, shape)
        if name not in self.selection.masks:
            return torch.zeros(parameter.shape, dtype=torch.bool)
        return self.selection.masks[name].cpu().expand(parameter.shape).contiguous()

    def _frozen_part(self, selected: Tensor) -> Tensor:
        return selected


@dataclass(frozen=True)
class SparseArm(FrozenArm):
    """An arm that trains only the selected pretrained elements, and the new head; all others stay bit for bit.

    With `top_k(fisher, ...)` these are FISH masks. Source: Sung et al. 2021, "Training neural networks with fixed
    sparse masks".

    Parameters
    ----------
    selection
        Elements of the pretrained model. Those of its own head are not in a classifier.
    dropout
        Any other arm, by default no dropout.
    """

    def _frozen_part(self, selected: Tensor) -> Tensor:
        return ~selected


@dataclass(frozen=True)
class MixoutArm(WeightArm):
    """An arm with mixout: in each training forward, pretrained values stand in for a random part of the weights.

    For every weight matrix of the pretrained layers (not embeddings) and each of its elements, with m ~
    Bernoulli(rate): θ' = (m θ0 + (1 - m) θ - rate θ0) / (1 - rate), whose mean is θ. Off at evaluation. Source: Lee,
    Cho and Kang 2020, "Mixout: effective regularization to finetune large-scale pretrained language models".

    Parameters
    ----------
    rate
        In [0, 1); 0 changes nothing.
    dropout
        Any other arm, by default none: mixout takes its place.
    """

    rate: float
    dropout: Any = 0.0

    def __post_init__(self) -> None:
        number(self.rate, "rate", least=0, below=1)

    def content(self) -> tuple[Any, ...]:
        """Return what determines the arm beside its dropout."""
        return (float(self.rate),)

    def prepare(self, classifier: nn.Module) -> None:
        """Mix the weights of `classifier` in each forward of its training."""
        if self.rate == 0:
            return
        for name, module in backbone_of(classifier).base.named_modules():
            weight = module._parameters.get("weight")
            is_matrix = weight is not None and weight.ndim == 2 and not isinstance(module, nn.Embedding)
            if is_matrix and place_of(f"{name}.weight").component != "head":
                _mix(module, self.rate)


def pretrained_parameters(classifier: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters of `classifier` that the pretrained model calls by `names`, as far as it has them.

    Raises
    ------
    ValueError
        If it has none of them.
    """
    names = list(names)
    body = backbone_of(classifier)
    own = {
        relative: parameter
        for name, parameter in body.model.named_parameters(remove_duplicate=False)
        if (relative := body.relative(name)) is not None
    }
    # the pretrained model's name of its backbone ("bert.", "transformer.", none): what most names agree on
    prefixes = Counter(
        name.removesuffix(relative) for relative in own for name in names if f".{name}".endswith(f".{relative}")
    )
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    found = {
        name: own[name.removeprefix(prefix)]
        for name in names
        if name.startswith(prefix) and name.removeprefix(prefix) in own
    }
    if not found:
        raise ValueError(
            f"expected names of parameters of {type(classifier).__name__}, got {few(names)}; make the scores or the "
            "selection from the pretrained model that is fine-tuned"
        )
    return found


def _check_shape(name: str, parameter: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(parameter.shape) != tuple(shape):
        raise ValueError(
            f"expected {name!r} of shape {tuple(parameter.shape)}, got {tuple(shape)}; make the scores or the "
            "selection from the pretrained model that is fine-tuned"
        )


class _Masked:
    """Hook of a gradient: zero at the frozen elements."""

    def __init__(self, frozen: Tensor) -> None:
        self.frozen = frozen

    def __call__(self, gradient: Tensor) -> Tensor:
        self.frozen = self.frozen.to(gradient.device)
        return gradient.masked_fill(self.frozen, 0.0)


def _mix(module: nn.Module, rate: float) -> RemovableHandle:
    """Let `module` compute with a mixed weight in training mode; its parameter keeps its name and its place."""
    start = module._parameters["weight"].detach().clone()  # type: ignore[union-attr]

    def mix(module: nn.Module, arguments: Any) -> None:
        weight = module._parameters["weight"]
        if module.training and weight is not None:
            first = start.to(weight.device)
            mixed = torch.where(torch.rand_like(weight) < rate, first, weight)
            # an attribute of the object goes before the parameter of that name
            module.__dict__["weight"] = (mixed - rate * first) / (1 - rate)

    def restore(module: nn.Module, arguments: Any, output: Any) -> None:
        module.__dict__.pop("weight", None)

    module.register_forward_pre_hook(mix)
    return module.register_forward_hook(restore, always_call=True)
