"""Fisher information of a model: scores, means per tensor with error bars, groupings, and their file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from gdrop_viz.base.checks import number, one_of, whole
from gdrop_viz.base.order_statistics import concentration, largest
from gdrop_viz.base.saved import Saved
from gdrop_viz.fisher.layouts import Layout
from gdrop_viz.fisher.stability import stability
from gdrop_viz.fisher.units import by_head, by_unit
from gdrop_viz.fisher.weights import weights_of
from gdrop_viz.models.anatomy import places_of

if TYPE_CHECKING:
    import pandas as pd

_GROUPINGS = {"layer": ["layer"], "component": ["component"], "layer and component": ["layer", "component"]}


@dataclass(frozen=True, eq=False, repr=False)
class Fisher(Saved):
    """Diagonal Fisher information, F = 1/N Σ_n (∂L_n/∂θ)², in nats² per squared unit of the parameter.

    Attributes
    ----------
    means : pandas.Series
        Parameter name -> mean score over the tensor's elements.
    standard_errors : pandas.Series
        Of the means, over sequences (sample standard deviation / √N); NaN where unknown.
    n_sequences : int
    estimator, resolution : str
    shapes : dict[str, tuple[int, ...]]
        Of every tensor; empty if the scores came from elsewhere.
    scores : dict[str, Tensor] | None
        A score per parameter, each tensor in its parameter's shape; None at tensor resolution.
    history : pandas.DataFrame
        Mean score of each tensor (columns) in successive sequences, or blocks of them (rows).
    model_class : str
        Name of the model's class; empty if the scores came from elsewhere.
    looped : dict[str, str]
        The parameters that went through the loop, one pass per sequence, and why.
    ended : str
        Why the run ended: "all sequences", "stopped" or "stable at confidence ...".
    text_checksum : str | None
        Of the batches, where they have one.
    is_restricted : bool
        Whether only some of the model's parameters were asked for.
    left_out : list[str]
        Parameters that have no gradients (integers, as 8-bit loading makes): they have no scores and count nowhere.
    layouts : dict[str, Layout]
        How each tensor is divided into output units and attention heads: see `gdrop_viz.fisher.layouts`.
    metadata : dict
        Draws, seed, sequences per row of `history`, versions of the libraries.

    Examples
    --------
    >>> import pandas as pd
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> fisher.grouped("layer")["mean"].to_dict()
    {'layer 0': 2.0, 'layer 1': 1.0}
    """

    means: pd.Series
    standard_errors: pd.Series
    n_sequences: int
    estimator: str
    resolution: str
    shapes: dict[str, tuple[int, ...]]
    scores: dict[str, Tensor] | None
    history: pd.DataFrame
    model_class: str = ""
    looped: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    text_checksum: str | None = None
    is_restricted: bool = False
    left_out: list[str] = field(default_factory=list)
    layouts: dict[str, Layout] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_means(cls, means: pd.Series | Mapping[str, float]) -> Fisher:
        """Take scores that came from elsewhere: parameter name -> mean score of the tensor.

        Raises
        ------
        ValueError
            If they are empty, not finite, or negative.
        """
        import pandas as pd

        try:
            means = pd.Series(means, dtype=float, name="mean").rename_axis("parameter")
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected {{parameter name: mean score}}, got {type(means).__name__}: {error}") from None
        if not len(means) or not all(isinstance(name, str) for name in means.index):
            raise ValueError("expected at least one {parameter name: mean score}, got none")
        bad = means[~np.isfinite(means) | (means < 0)]
        if len(bad):
            raise ValueError(f"expected finite scores that are not negative, got {bad.iloc[0]} for {bad.index[0]!r}")
        nothing = pd.Series(np.nan, index=means.index, name="standard error")
        return cls(means, nothing, 0, "given", "tensor", {}, None, pd.DataFrame(columns=means.index, dtype=float))

    # --- views -------------------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """One row per tensor: place, number of elements, mean score, standard error and share of all information."""
        import pandas as pd

        places = list(places_of(self.means.index).values())
        elements = self._elements()
        total = self.means * elements
        return pd.DataFrame(
            {
                "layer": [place.label for place in places],
                "component": [place.component for place in places],
                "elements": elements,
                "mean": self.means,
                "standard error": self.standard_errors,
                "share": total / (total.sum() or 1.0),
            },
            index=self.means.index,
        )

    def grouped(self, by: str = "layer") -> pd.DataFrame:
        """Group the scores by "tensor", "layer", "component", "layer and component", "head" or "neuron".

        "head" has a row per layer and attention head, "neuron" one per layer and hidden unit of its feed-forward block:
        see `gdrop_viz.fisher.units`. Both need a score per parameter.

        Returns
        -------
        pandas.DataFrame
            A row per group. "mean": the unweighted mean of the tensors' means (the paper's score of a module);
            "weighted mean": per element; "share": of all information, Σ scores; "standard error": of "mean", over
            sequences; "tensors", "elements": how many.

        Raises
        ------
        ValueError
            On an unknown `by`; for heads and neurons at tensor resolution, or if no tensor is known to hold them.
        """
        one_of(by, ("tensor", *_GROUPINGS, "head", "neuron"), "by")
        if by in ("head", "neuron"):
            scores = self._need_scores(f"grouped({by!r})")
            return by_unit(scores, by, self._with_heads() if by == "head" else self.layouts)
        frame = self.to_frame()
        if by == "tensor":
            return frame
        frame["total"] = frame["mean"] * frame["elements"]
        groups = frame.groupby(_GROUPINGS[by], sort=False)
        table = groups.agg(
            tensors=("mean", "size"), elements=("elements", "sum"), mean=("mean", "mean"), share=("share", "sum")
        )
        table["weighted mean"] = groups["total"].sum() / table["elements"]
        # errors of a mean over tensors, taking the tensors' errors as independent where no history tells better
        table["standard error"] = groups["standard error"].agg(lambda errors: np.sqrt((errors**2).sum()) / len(errors))
        if len(self.history) > 1:
            rows = self.history.T.groupby([frame[key] for key in _GROUPINGS[by]], sort=False).mean().T
            exact = rows.std(ddof=1) / np.sqrt(len(rows))
            table["standard error"] = exact.reindex(table.index)
        return table

    def heads(self, n_heads: int | None = None) -> pd.DataFrame:
        """Mean score of every attention head's part of each tensor: rows = tensors, columns = heads.

        `grouped("head")` has the heads with all their tensors together.

        Raises
        ------
        ValueError
            At tensor resolution, or if the number of heads is unknown (pass `n_heads`).
        """
        import pandas as pd

        scores = self._need_scores("heads()")
        layouts = self._with_heads(n_heads)
        parts = {name: by_head(name, score, layouts.get(name, Layout())) for name, score in scores.items()}
        rows = {name: part.double().mean(1).tolist() for name, part in parts.items() if part is not None}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns="head")

    def neurons(self, name: str) -> Tensor:
        """Mean score of each output unit of one matrix, (units,): rows, or columns of GPT-2's transposed Conv1D.

        Raises ValueError at tensor resolution, or if `name` is no matrix among the parameters.
        """
        scores = self._need_scores("neurons()")
        if name not in scores or scores[name].dim() != 2:
            raise ValueError(f"expected name as that of a matrix among the parameters, got {name!r}")
        return scores[name].double().mean(0 if self.layouts.get(name, Layout()).inputs_first else 1)

    def concentration(self, points: int = 200) -> pd.DataFrame:
        """Share of the information that the highest-scoring parameters carry, at `points` shares of the parameters.

        Returns
        -------
        pandas.DataFrame
            "parameters": the share of the parameters, best first; "information": the share of Σ F they carry, both in
            [0, 1]. `.attrs["gini"]` is the Gini coefficient of the scores: 0 = spread evenly, 1 = all in one parameter.
        """
        import pandas as pd

        if self.scores is not None:
            n = sum(score.numel() for score in self.scores.values())
            ranks = _spread(n, points)
            taken, (information, area) = ranks / n, concentration(self.scores.values(), ranks)
        else:
            frame = self.to_frame().sort_values("mean", ascending=False)
            weight = frame["elements"].to_numpy(dtype=float)
            carried = (frame["mean"].to_numpy(dtype=float) * weight).cumsum()
            shares, held = weight.cumsum() / weight.sum(), carried / (carried[-1] or 1.0)
            # area under the Lorenz curve from above, by trapezoids through the origin
            area = float(np.trapezoid(np.insert(held, 0, 0.0), np.insert(shares, 0, 0.0)))
            at = _spread(len(shares), points) - 1
            taken, information = shares[at], held[at]
        frame = pd.DataFrame({"parameters": taken, "information": information})
        frame = pd.concat([pd.DataFrame({"parameters": [0.0], "information": [0.0]}), frame], ignore_index=True)
        frame.attrs["gini"] = 2 * area - 1
        return frame

    def located(self, fraction: float) -> pd.DataFrame:
        """Places of the top `fraction` of the parameters: counts and shares by layer and component.

        They are exactly the parameters that `top_k` selects, also among equal scores.

        Returns
        -------
        pandas.DataFrame
            "elements" of the place, those "chosen"; "of the top": share of the chosen parameters that lie there; "of
            the place": share of the place that is chosen.

        Raises
        ------
        ValueError
            At tensor resolution, or if `fraction` is not in (0, 1].
        """
        scores = self._need_scores("located()")
        number(fraction, "fraction", above=0, most=1)
        chosen = largest(scores, max(1, round(fraction * sum(score.numel() for score in scores.values()))))
        frame = self.to_frame()
        frame["chosen"] = [int(chosen[name].count_nonzero()) for name in frame.index]
        table = frame.groupby(["layer", "component"], sort=False)[["elements", "chosen"]].sum()
        table["of the top"] = table["chosen"] / table["chosen"].sum()
        table["of the place"] = table["chosen"] / table["elements"]
        return table

    def stability(self, groups: Mapping[str, list[str]] | None = None) -> pd.DataFrame:
        """Rank stability of layers x components against the number of sequences: see `gdrop_viz.fisher.stability`."""
        return stability(self.history, groups)

    def _elements(self) -> pd.Series:
        import pandas as pd

        counts = [int(np.prod(self.shapes[name])) if name in self.shapes else 1 for name in self.means.index]
        return pd.Series(counts, index=self.means.index, name="elements")

    def _with_heads(self, n_heads: int | None = None) -> dict[str, Layout]:
        if n_heads is not None:
            whole(n_heads, "n_heads")
            return {
                name: replace(self.layouts.get(name, Layout()), n_heads=n_heads, head_size=None) for name in self.shapes
            }
        if all(layout.n_heads is None for layout in self.layouts.values()):
            raise ValueError("the number of attention heads is unknown; use heads(n_heads=...)")
        return self.layouts

    def _need_scores(self, what: str) -> dict[str, Tensor]:
        if self.scores is None:
            raise ValueError(
                f'{what} needs a score per parameter; this result has resolution "{self.resolution}": '
                'estimate with resolution="element"'
            )
        return self.scores

    def check_model(self, model: nn.Module) -> None:
        """Raise ValueError, naming the first mismatch, if the scores are not those of a model of this shape."""
        shapes = {name: tuple(weight.shape) for name, weight in weights_of(model).items()}
        for name, shape in (self.shapes or dict.fromkeys(self.means.index)).items():
            if name not in shapes:
                raise ValueError(
                    f"these Fisher scores are of {self.model_class or 'another model'}: {name!r} is no "
                    f"parameter of {type(model).__name__}; estimate on this model, or load theirs"
                )
            if shape is not None and shapes[name] != shape:
                raise ValueError(f"the scores of {name!r} have shape {shape}, the model's parameter {shapes[name]}")
        without = shapes.keys() - set(self.means.index) - set(self.left_out)
        if without and self.shapes and not self.is_restricted:
            raise ValueError(
                f"these Fisher scores are of {self.model_class or 'another model'}: they hold nothing for "
                f"{min(without)!r}, a parameter of {type(model).__name__}; estimate on this model, or load theirs"
            )

    # --- on disk, and shown -------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: nn.Module | None = None) -> Fisher:
        """Read what `save` wrote; with `model`, check that the scores are those of such a model.

        Raises
        ------
        FileNotFoundError
            If there is no file at `path`.
        ValueError
            If the file is damaged, of another kind, or does not fit the model.
        """
        fisher = super().load(path)
        if model is not None:
            fisher.check_model(model)
        return fisher

    def _kept(self) -> dict[str, Any]:
        names = ("means", "standard_errors", "history")
        arrays = {name: np.asarray(getattr(self, name), dtype=float) for name in names}
        return {**super()._kept(), **arrays, "parameters": list(self.means.index)}

    @classmethod
    def _remade(cls, kept: dict[str, Any]) -> Fisher:
        import pandas as pd

        names = pd.Index(kept.pop("parameters"), name="parameter")
        if not np.isfinite(kept["means"]).all() or (kept["means"] < 0).any():
            raise ValueError("mean scores that are not finite or negative")
        kept["means"] = pd.Series(kept["means"], index=names, name="mean")
        kept["standard_errors"] = pd.Series(kept["standard_errors"], index=names, name="standard error")
        kept["history"] = pd.DataFrame(kept["history"], columns=names)
        return cls(**kept)

    def _summary(self) -> str:
        return f"{self.model_class or 'scores from elsewhere'}, {self.estimator}, {self.n_sequences:,} sequences"

    def _table(self) -> pd.DataFrame:
        top = self.grouped("layer and component").sort_values("mean", ascending=False).head(8)
        return top[["elements", "mean", "standard error", "share"]]


def _spread(n: int, points: int) -> np.ndarray:
    """Ranks from 1 to n, evenly spread on a logarithmic and on a linear scale."""
    return np.unique(np.concatenate([np.geomspace(1, n, points), np.linspace(1, n, points)]).round().astype(int))
