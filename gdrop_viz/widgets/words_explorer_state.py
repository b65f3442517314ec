"""Settings of the WordsExplorer with what was computed so far and the code that follows, without a view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gdrop_viz.base.checks import number, one_of, whole
from gdrop_viz.plots.picture import Picture
from gdrop_viz.plots.words import completions_picture, words_loss_picture

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape.words import WordsPath
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.perturbation import Direction, Selection

KINDS = ("top", "random", "bottom")
BY = ("element", "tensor", "layer", "component")
FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5)
SENTENCES = {
    "mlm": "she was very _ to see her sister again .",
    "clm": "She was very _",
    "span": "She was very _ to see her sister again.",
}


@dataclass
class WordsExplorerState:
    """The settings of the explorer, the paths known so far, and what follows from both.

    `sentence` has one blank, `_`. `left` and `right` say which parameters each side moves: the "top", the "bottom" or a
    "random" fraction `k` of the units `by`. Both sides move by the same Euclidean distance: a distance of 1 is the norm
    of the weights that move on the left. `at` is the number of the distance that is shown.
    """

    sentence: str
    left: str = "top"
    right: str = "random"
    k: float = 0.01
    by: str = "element"
    seed: int = 0
    reach: float = 1.0
    n_distances: int = 21
    at: int = 0
    paths: dict[str, WordsPath] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for side in (self.left, self.right):
            one_of(side, KINDS, "what moves")
        one_of(self.by, BY, "by")
        number(self.k, "k", above=0, most=1)
        number(self.reach, "reach", above=0)
        whole(self.n_distances, "n_distances", least=2)

    @property
    def text(self) -> str:
        """The sentence as `gv.completions` takes it; raises ValueError unless there is one blank."""
        blanks = self.sentence.count("_")
        if blanks != 1 or "{}" in self.sentence:
            raise ValueError(f"expected a sentence with one blank, written _, got {blanks}; write 'she was _ .'")
        return self.sentence.replace("_", "{}")

    @property
    def distances(self) -> np.ndarray:
        """The distances that a run computes, from 0 to `reach`."""
        return np.linspace(0.0, self.reach, self.n_distances)

    @property
    def panels(self) -> tuple[str, ...]:
        """The labels of the two sides; one only if both would show the same."""
        return tuple(dict.fromkeys(self._label(kind) for kind in (self.left, self.right)))

    def missing(self) -> list[str]:
        """The sides that are not computed yet, or in part."""
        return [label for label in self.panels if label not in self.paths or not self.paths[label].is_complete]

    def directions(self, lm: Pretrained, fisher: Fisher) -> dict[str, Direction]:
        """The direction of each side, by label, all of one norm."""
        from gdrop_viz.perturbation import bottom_k, random_direction, random_k, top_k

        select: dict[str, Callable[[], Selection]] = {
            "top": lambda: top_k(fisher, self.k, by=self.by),
            "bottom": lambda: bottom_k(fisher, self.k, by=self.by),
            "random": lambda: random_k(lm.model, self.k, by=self.by, seed=self.seed),
        }
        found: dict[str, Direction] = {}
        norm = None
        for kind in dict.fromkeys((self.left, self.right)):
            direction = random_direction(
                lm.model, seed=self.seed, selection=select[kind](), move_vectors=True, norm=norm
            )
            found[self._label(kind)], norm = direction, direction.norm
        return found

    def compute(
        self,
        lm: Pretrained,
        fisher: Fisher,
        *,
        on_point: Callable[[str, WordsPath], object] = lambda label, path: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compute the sides that are missing on a copy of the model; what is known after a stop is kept in `paths`."""
        import copy

        from gdrop_viz.landscape.words import words_along

        text, missing = self.text, self.missing()
        copied = replace(lm, model=copy.deepcopy(lm.model))
        for label, direction in self.directions(copied, fisher).items():
            if label not in missing or stopping():
                continue

            def known(path: WordsPath, label: str = label) -> None:
                self.paths[label] = path
                on_point(label, path)

            words_along(
                copied, text, direction, list(self.distances), label=label, on_point=known, stopping=stopping
            )  # fmt: skip

    def as_code(self) -> str:
        """The calls that compute the same; `lm` and `fisher` are what the explorer was given."""
        select = {
            "top": f"gv.top_k(fisher, {self.k!r}, by={self.by!r})",
            "bottom": f"gv.bottom_k(fisher, {self.k!r}, by={self.by!r})",
            "random": f"gv.random_k(lm.model, {self.k!r}, by={self.by!r}, seed={self.seed})",
        }
        kinds = dict.fromkeys((self.left, self.right))
        chosen = "".join(f"    {self._label(kind)!r}: {select[kind]},\n" for kind in kinds)
        return (
            "import numpy as np\nimport gdrop_viz as gv\nfrom gdrop_viz.landscape.words import words_along\n"
            f"selections = {{\n{chosen}}}\n"
            "paths, norm = {}, None\n"
            "for label, selection in selections.items():\n"
            f"    direction = gv.random_direction(\n        lm.model, seed={self.seed}, selection=selection, "
            "move_vectors=True, norm=norm\n    )\n"
            "    norm = direction.norm\n"
            f"    paths[label] = words_along(\n        lm, {self.sentence.replace('_', '{}')!r}, direction, "
            f"np.linspace(0.0, {self.reach!r}, {self.n_distances}), label=label\n    )\n"
        )

    def words(self) -> list[Picture]:
        """The completions of both sides at the distance `at`, with one scale of the probability."""
        labels = self.panels if len(self.panels) == 2 else self.panels * 2
        known = [self.paths[label] for label in labels if label in self.paths]
        tables = [table for path in known for table in path.completions if table is not None and len(table)]
        highest = max((float(table["probability"].max()) for table in tables), default=0.0)
        return [
            completions_picture(self.paths.get(label), self.at, title=_title(label), highest=highest, style=k)
            for k, label in enumerate(labels)
        ]

    def curve(self) -> Picture:
        """The loss of the sentence along the distances."""
        known = {_title(label): self.paths[label] for label in self.panels if label in self.paths}
        return words_loss_picture(known, self.at, reach=self.reach)

    def _label(self, kind: str) -> str:
        """Everything that determines a path of this model, in words."""
        distance = f", at the distance of {self.left}" if kind != self.left else ""
        grid = f"{self.n_distances} distances up to {self.reach:g}"
        return f"{kind} {100 * self.k:g} % of {self.by}s, seed {self.seed}, {grid}{distance}: {self.sentence}"


def _title(label: str) -> str:
    return label.split(",")[0]
