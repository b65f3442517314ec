"""Pictures of the words along a direction: completions as probability bars, the sentence's loss as a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.plots.picture import Axis, Picture, Reference, Series

if TYPE_CHECKING:
    from gdrop_viz.landscape.words import WordsPath

_MAX_LETTERS = 22
_UNIT = "distance (1 = the norm of the weights that move on the left)"


def completions_picture(path: WordsPath | None, at: int, *, title: str, highest: float, style: int = 0) -> Picture:
    """Picture of the completions at the distance with the number `at`, the likeliest on top; bars up to `highest`."""
    x = Axis("probability", (0.0, 1.05 * highest if highest > 0 else 1.0))
    table = None if path is None else path.completions[at]
    if path is None or table is None or table.empty:
        return Picture(title, "Not computed yet: press Run.", x, Axis("completion", (-0.5, 4.5), ticks=()))
    words, chances = [str(word) for word in table["completion"]], table["probability"].to_numpy(dtype=float)
    places = np.arange(len(words))[::-1]
    found = ", ".join(f"{_short(word)} {100 * chance:.2g} %" for word, chance in zip(words, chances, strict=True))
    return Picture(
        title=title,
        summary=f"At distance {path.distances[at]:.3g} the model writes {found}; loss {path.losses[at]:.3g}.",
        x=x,
        y=Axis("completion", (-0.5, len(words) - 0.5), list(zip(places.tolist(), map(_short, words), strict=True))),
        series=(
            Series(
                "probability", chances, places, style=style, line=False, marker=False, horizontal=True, fill=True,
                details=words, in_legend=False,
            ),
        ),
    )  # fmt: skip


def words_loss_picture(paths: Mapping[str, WordsPath], at: int, *, reach: float) -> Picture:
    """Picture of the sentence's loss along the distances of each path, with a dot at the one with the number `at`."""
    series, sentences, values = [], [], []
    for k, (name, path) in enumerate(paths.items()):
        dot = Series(name, path.distances[[at]], path.losses[[at]], style=k, line=False, in_legend=False)
        series += [Series(name, path.distances, path.losses, style=k, marker=False), dot]
        sentences.append(f"{name}: {path.losses[at]:.3g}")
        values += [*path.losses, path.guessing]
    references = tuple(
        Reference("y", path.guessing, f"guessing: ln V = {path.guessing:.3g}") for path in list(paths.values())[:1]
    )
    sentence = next((f' of "{path.sentence}"' for path in paths.values()), "")
    return Picture(
        title="Loss of the sentence",
        summary=f"Loss{sentence}, {', '.join(sentences)} nats per predicted token." if paths else "Not computed yet.",
        x=Axis(_UNIT, (-0.02 * reach, 1.02 * reach)),
        y=Axis.around("loss (nats per predicted token)", [0.0, *values]),
        series=tuple(series),
        references=references,
    )


def _short(word: str) -> str:
    word = word or "(nothing)"
    return word if len(word) <= _MAX_LETTERS else word[: _MAX_LETTERS - 1] + "…"
