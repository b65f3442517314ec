"""What is known of a model's Fisher information: scores, means per tensor, error bars, groupings, and their file."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gdrop_viz.base.saved import load_tensors, save_tensors
from gdrop_viz.models.anatomy import places_of

if TYPE_CHECKING:
    import pandas as pd

_KIND = "gdrop_viz Fisher information"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Fisher:
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
    metadata : dict
        Model class, draws, seed, checksum of the text, what went through the loop, why the run ended.

    >>> import pandas as pd
    >>> fisher = Fisher.from_means(pd.Series({"h.0.attn.c_attn.weight": 2.0, "h.1.mlp.c_fc.weight": 1.0}))
    >>> fisher.grouped("layer")["mean"].to_dict()
    {'layer 0': 2.0, 'layer 1': 1.0}
    """

    means: pd.Series = field(repr=False)
    standard_errors: pd.Series = field(repr=False)
    n_sequences: int
    estimator: str
    resolution: str
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    scores: dict[str, Tensor] | None = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    metadata: dict[str, Any] = field(repr=False, default_factory=dict)

    @classmethod
    def from_means(cls, means: pd.Series | Mapping[str, float]) -> Fisher:
        """Take scores that came from elsewhere: parameter name -> mean score of the tensor.

        Raises ValueError if they are empty, not finite, or negative.
        """
        import pandas as pd

        try:
            means = pd.Series(means, dtype=float, name="mean").rename_axis("parameter")
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected {{parameter name: mean score}}, got {type(means).__name__}: {error}.") from None
        if not len(means) or not all(isinstance(name, str) for name in means.index):
            raise ValueError("Expected at least one {parameter name: mean score}.")
        bad = means[~np.isfinite(means) | (means < 0)]
        if len(bad):
            raise ValueError(f"Fisher scores are finite and not negative; {bad.index[0]!r} has {bad.iloc[0]}.")
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
        """Group the scores: `by` is "tensor", "layer", "component", "layer and component", "head" or "neuron".

        mean: the unweighted mean of the tensors' means (the paper's score of a module); weighted mean: per element;
        share: of all information, Σ scores. "head" has a row per layer and attention head, "neuron" one per layer and
        hidden unit of its feed-forward block: see `gdrop_viz.fisher.units`. Both need a score per parameter.
        """
        if by in ("head", "neuron"):
            from gdrop_viz.fisher.units import by_unit

            scores = self._need_scores(f"grouped({by!r})")
            heads = self._n_heads() if by == "head" else 0
            return by_unit(scores, by, heads, self.metadata.get("key value heads"))
        frame = self.to_frame()
        if by == "tensor":
            return frame
        keys = {"layer": ["layer"], "component": ["component"], "layer and component": ["layer", "component"]}
        if by not in keys:
            raise ValueError(
                f"by must be 'tensor', 'layer', 'component', 'layer and component', 'head' or 'neuron', got {by!r}."
            )
        frame["total"] = frame["mean"] * frame["elements"]
        groups = frame.groupby(keys[by], sort=False)
        table = groups.agg(
            tensors=("mean", "size"), elements=("elements", "sum"), mean=("mean", "mean"), share=("share", "sum")
        )
        table["weighted mean"] = groups["total"].sum() / table["elements"]
        # errors of a mean over tensors, taking the tensors' errors as independent where no history tells better
        table["standard error"] = groups["standard error"].agg(lambda errors: np.sqrt((errors**2).sum()) / len(errors))
        if len(self.history) > 1:
            rows = self.history.T.groupby([frame[key] for key in keys[by]], sort=False).mean().T
            exact = rows.std(ddof=1) / np.sqrt(len(rows))
            table["standard error"] = exact.reindex(table.index)
        return table

    def heads(self, n_heads: int | None = None) -> pd.DataFrame:
        """Mean score of every attention head's part of each tensor: rows = tensors, columns = heads.

        `grouped("head")` has the heads with all their tensors together.

        Raises ValueError at tensor resolution, or if the number of heads is unknown (pass `n_heads`).
        """
        import pandas as pd

        from gdrop_viz.fisher.units import by_head

        scores = self._need_scores("heads()")
        n_heads = self._n_heads(n_heads)
        parts = {n: by_head(n, score, n_heads, self.metadata.get("key value heads")) for n, score in scores.items()}
        rows = {name: part.double().mean(1).tolist() for name, part in parts.items() if part is not None}
        return pd.DataFrame.from_dict(rows, orient="index", columns=range(n_heads)).rename_axis(columns="head")

    def neurons(self, name: str) -> Tensor:
        """Mean score of each output unit of one matrix, (units,): rows, or columns of GPT-2's transposed Conv1D."""
        from gdrop_viz.fisher.units import is_transposed

        scores = self._need_scores("neurons()")
        if name not in scores or scores[name].dim() != 2:
            raise ValueError(f"neurons() takes the name of a matrix among the parameters, got {name!r}.")
        return scores[name].double().mean(0 if is_transposed(name) else 1)

    def concentration(self, points: int = 200) -> pd.DataFrame:
        """How much of the information do the highest-scoring parameters carry?

        Columns: "parameters", the share of parameters taken, best first; "information", the share of Σ F they carry.
        `.attrs["gini"]` is the Gini coefficient of the scores: 0 = spread evenly, 1 = all in one parameter.
        """
        import pandas as pd

        if self.scores is not None:
            ordered = torch.cat([score.flatten() for score in self.scores.values()]).sort(descending=True).values
            weight = torch.ones((), dtype=torch.float64)
            carried = ordered.double().cumsum(0)
            taken = torch.arange(1, len(ordered) + 1, dtype=torch.float64)
        else:
            frame = self.to_frame().sort_values("mean", ascending=False)
            weight = torch.tensor(frame["elements"].to_numpy(dtype=float))
            carried = (torch.tensor(frame["mean"].to_numpy(dtype=float)) * weight).cumsum(0)
            taken = weight.cumsum(0)
        total = float(carried[-1]) or 1.0
        share_taken, share_carried = taken / taken[-1], carried / total
        # area under the Lorenz curve from above, by trapezoids through the origin
        left_taken = torch.cat([share_taken.new_zeros(1), share_taken[:-1]])
        left_carried = torch.cat([share_carried.new_zeros(1), share_carried[:-1]])
        area = float(((share_taken - left_taken) * (share_carried + left_carried) / 2).sum())
        n = len(share_taken)
        at = np.unique(np.concatenate([np.geomspace(1, n, points), np.linspace(1, n, points)]).round().astype(int) - 1)
        frame = pd.DataFrame({"parameters": share_taken[at].numpy(), "information": share_carried[at].numpy()})
        frame = pd.concat([pd.DataFrame({"parameters": [0.0], "information": [0.0]}), frame], ignore_index=True)
        frame.attrs["gini"] = 2 * area - 1
        return frame

    def located(self, fraction: float) -> pd.DataFrame:
        """Where do the top `fraction` of the parameters lie? Counts and shares by layer and component.

        "of the top": share of the chosen parameters that lie there; "of the place": share of the place that is chosen.
        """
        scores = self._need_scores("located()")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}.")
        flat = torch.cat([score.flatten() for score in scores.values()])
        k = max(1, round(fraction * len(flat)))
        threshold = flat.kthvalue(len(flat) - k + 1).values
        frame = self.to_frame()
        frame["chosen"] = [int((scores[name] >= threshold).sum()) for name in frame.index]
        table = frame.groupby(["layer", "component"], sort=False)[["elements", "chosen"]].sum()
        table["of the top"] = table["chosen"] / table["chosen"].sum()
        table["of the place"] = table["chosen"] / table["elements"]
        return table

    def stability(self, groups: Mapping[str, list[str]] | None = None) -> pd.DataFrame:
        """Rank stability of layers x components against the number of sequences: see `gdrop_viz.fisher.stability`."""
        from gdrop_viz.fisher.stability import stability

        return stability(self.history, groups)

    def _elements(self) -> pd.Series:
        import pandas as pd

        counts = [int(np.prod(self.shapes[name])) if name in self.shapes else 1 for name in self.means.index]
        return pd.Series(counts, index=self.means.index, name="elements")

    def _n_heads(self, given: int | None = None) -> int:
        n_heads = given or self.metadata.get("heads")
        if not n_heads:
            raise ValueError("The number of attention heads is unknown; use heads(n_heads=...).")
        return int(n_heads)

    def _need_scores(self, what: str) -> dict[str, Tensor]:
        if self.scores is None:
            raise ValueError(
                f'{what} needs a score per parameter; this result has resolution "{self.resolution}": '
                'estimate with resolution="element".'
            )
        return self.scores

    def check_model(self, model: nn.Module) -> None:
        """Raise ValueError, naming the first mismatch, if the scores are not those of a model of this shape."""
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        for name, shape in (self.shapes or dict.fromkeys(self.means.index)).items():
            if name not in shapes:
                raise ValueError(
                    f"These Fisher scores are of {self.metadata.get('model', 'another model')}: {name!r} is no "
                    f"parameter of {type(model).__name__}. Estimate on this model, or load theirs."
                )
            if shape is not None and shapes[name] != shape:
                raise ValueError(f"The scores of {name!r} have shape {shape}, the model's parameter {shapes[name]}.")
        without = [name for name in shapes if name not in self.means.index]
        if without and self.shapes and not self.metadata.get("restricted"):
            raise ValueError(
                f"These Fisher scores are of {self.metadata.get('model', 'another model')}: they hold nothing for "
                f"{without[0]!r}, a parameter of {type(model).__name__}. Estimate on this model, or load theirs."
            )

    # --- on disk -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: scores, means, errors and history as tensors, the rest as JSON in its header."""
        from importlib.metadata import version

        names = list(self.means.index)
        header = {
            "kind": _KIND,
            "version": _VERSION,
            "parameters": names,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "unit": "one sequence: mean negative log-likelihood over its predicted tokens, in nats",
            "estimator": self.estimator,
            "resolution": self.resolution,
            "sequences": self.n_sequences,
            "metadata": self.metadata,
            "libraries": {name: version(name) for name in ("torch", "transformers", "safetensors")},
        }
        tensors = {
            "means": torch.tensor(self.means.to_numpy(dtype=float)),
            "standard_errors": torch.tensor(self.standard_errors.to_numpy(dtype=float)),
            "history": torch.tensor(np.ascontiguousarray(self.history.to_numpy(dtype=float))),
        }
        for name, score in (self.scores or {}).items():
            tensors[f"scores/{name}"] = score
        save_tensors(path, "gdrop_viz", header, tensors)

    @classmethod
    def load(cls, path: str | Path, *, model: nn.Module | None = None) -> Fisher:
        """Read what `save` wrote; with `model`, check that the scores are those of such a model.

        Raises FileNotFoundError, or ValueError if the file is damaged, of another kind, or does not fit the model.
        """
        import pandas as pd

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file; Fisher.save(path) writes one.")
        header, tensors = load_tensors(path, "gdrop_viz", remedy="estimate and save again")
        if header.get("kind") != _KIND:
            raise ValueError(f"{path} is no Fisher information; Fisher.save(path) writes such a file.")
        if header.get("version") != _VERSION:
            raise ValueError(f"{path} has version {header.get('version')}, this library reads {_VERSION}: update it.")
        try:
            index = pd.Index(header["parameters"], name="parameter")
            shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
            scores = {name: tensors[f"scores/{name}"] for name in index} if header["resolution"] == "element" else None
            fisher = cls(
                means=pd.Series(tensors["means"].numpy(), index=index, name="mean"),
                standard_errors=pd.Series(tensors["standard_errors"].numpy(), index=index, name="standard error"),
                n_sequences=int(header["sequences"]),
                estimator=header["estimator"],
                resolution=header["resolution"],
                shapes=shapes,
                scores=scores,
                history=pd.DataFrame(tensors["history"].numpy(), columns=index),
                metadata=header["metadata"],
            )
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is incomplete ({error!r}); estimate and save again.") from None
        fisher._check_consistency(path)
        if model is not None:
            fisher.check_model(model)
        return fisher

    def _check_consistency(self, path: Path) -> None:
        """Means must be those of the scores: a flipped byte must not pass for a result."""
        for name, score in (self.scores or {}).items():
            if tuple(score.shape) != self.shapes.get(name):
                raise ValueError(f"{path} is damaged: {name!r} has scores of shape {tuple(score.shape)}.")
            mean = float(score.double().mean()) if score.numel() else 0.0
            if not np.isclose(mean, self.means[name], rtol=1e-3, atol=1e-30):
                raise ValueError(f"{path} is damaged: the scores of {name!r} do not have their mean; estimate again.")
        if not np.isfinite(self.means).all() or (self.means < 0).any():
            raise ValueError(f"{path} is damaged: mean scores must be finite and not negative; estimate again.")

    def _repr_html_(self) -> str:
        top = self.grouped("layer and component").sort_values("mean", ascending=False).head(8)
        of = html.escape(str(self.metadata.get("model", "scores from elsewhere")))
        title = f"<b>Fisher information</b> of {of}: {self.estimator}, {self.n_sequences:,} sequences"
        columns = ["elements", "mean", "standard error", "share"]
        return title + top[columns].to_html(float_format=lambda value: f"{value:.3g}")
