"""Words along a direction: completions and loss of one sentence while the weights move away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gdrop_viz.base.checks import instance
from gdrop_viz.landscape.evaluation import evaluating
from gdrop_viz.models.losses import checked_batches
from gdrop_viz.models.trials import vocabulary_of
from gdrop_viz.perturbation import Direction
from gdrop_viz.text.batches import pretraining_batches
from gdrop_viz.text.completions import BLANK, completions

if TYPE_CHECKING:
    import pandas as pd

    from gdrop_viz.models.pretrained import Pretrained

_SPANS = 8  # draws of the corrupted spans of one sentence


@dataclass(frozen=True, eq=False)
class WordsPath:
    """What a model writes, and how well it knows one sentence, at some distances along a direction.

    Attributes
    ----------
    distances : numpy.ndarray
        (D,) multiples of the direction; one that is not computed yet has no loss.
    losses : numpy.ndarray
        (D,) mean loss of `sentence` in nats per predicted token; NaN where it is not computed yet.
    completions : tuple[pandas.DataFrame | None, ...]
        As `gv.completions` gives them, one table per distance.
    sentence : str
        The text with the trained model's best completion in its blank: what the losses are of.
    norm : float
        Euclidean norm of the direction.
    guessing : float
        The loss of one who knows nothing, ln V with V words in the vocabulary.
    label : str
        What moves.
    """

    distances: np.ndarray
    losses: np.ndarray
    completions: tuple[pd.DataFrame | None, ...]
    sentence: str
    norm: float
    guessing: float
    label: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every distance is computed."""
        return all(table is not None for table in self.completions)


def words_along(
    lm: Pretrained,
    text: str,
    direction: Direction,
    distances: Sequence[float],
    *,
    n: int = 5,
    max_new_tokens: int = 8,
    label: str = "",
    on_point: Callable[[WordsPath], object] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> WordsPath:
    """Return the completions of `text`, and the loss of the sentence, at multiples of `direction`.

    The sentence is `text` with the trained model's best completion. Its loss is the mean over its tokens: for a masked
    model each token is masked in turn and predicted from all others; a causal model predicts each from those before
    it; a span-corruption model fills in eight fixed draws of spans.

    Parameters
    ----------
    lm
        The pretrained model; its weights are moved in place and given back, so pass a copy where others read them.
    text
        With one blank `{}`, as for `gv.completions`.
    direction
        Any `Direction` of `lm.model`.
    distances
        Multiples of the direction.
    n, max_new_tokens
        As for `gv.completions`.
    label
        What moves, in words.
    on_point
        Called with what is known so far after each distance.
    stopping
        Asked before each distance; True ends the work with what is known.

    Returns
    -------
    WordsPath

    >>> import gdrop_viz as gv
    >>> lm = gv.load_pretrained("bert-mini")
    >>> path = words_along(lm, "she was very {} to see her .", gv.random_direction(lm.model), [0.0, 1.0], n=2)
    >>> path.losses[0] < path.losses[1], len(path.completions[0])
    (np.True_, 2)
    """
    instance(direction, Direction, "direction", "random_direction")
    places = np.asarray(distances, dtype=float)
    best = completions(lm, text, n=n, max_new_tokens=max_new_tokens)["completion"][0]
    sentence = text.replace(BLANK, f" {best} ") if lm.objective == "clm" else text.replace(BLANK, best)
    sentence = " ".join(sentence.split())
    vocabulary = vocabulary_of(lm.model)
    losses = np.full(len(places), np.nan)
    tables: list[pd.DataFrame | None] = [None] * len(places)

    def known() -> WordsPath:
        guessing = math.log(vocabulary) if vocabulary else math.nan
        return WordsPath(places, losses.copy(), tuple(tables), sentence, direction.norm, guessing, label)

    batch = checked_batches(lm.model, [_each_token(lm, sentence)], objective=lm.objective)
    with evaluating(lm.model, batch, {"way": [direction]}) as evaluate:
        for k, distance in enumerate(places):
            if stopping():
                break
            value = evaluate("way", [float(distance)])
            losses[k] = float(np.mean(value.losses))
            tables[k] = completions(lm, text, n=n, max_new_tokens=max_new_tokens)
            if on_point is not None:
                on_point(known())
    return known()


def _each_token(lm: Pretrained, sentence: str) -> dict[str, torch.Tensor]:
    """A batch whose losses are those of the single tokens of `sentence` (masked), or of the sentence (causal)."""
    if lm.objective == "span":
        corrupted = pretraining_batches(lm, [sentence] * _SPANS, n_sequences=_SPANS, batch_size=_SPANS, progress=False)
        return dict(corrupted[0])
    encoded = lm.tokenizer(sentence, return_tensors="pt")
    ids, attended = encoded["input_ids"], encoded["attention_mask"]
    if lm.objective == "clm":
        return {"input_ids": ids, "attention_mask": attended, "labels": ids.clone()}
    special = lm.tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)
    places = [at for at, is_special in enumerate(special) if not is_special]
    rows = torch.arange(len(places))
    inputs, labels = ids.repeat(len(places), 1), torch.full((len(places), ids.shape[1]), -100)
    labels[rows, places] = inputs[rows, places]
    inputs[rows, places] = lm.tokenizer.mask_token_id
    return {"input_ids": inputs, "attention_mask": attended.repeat(len(places), 1), "labels": labels}
