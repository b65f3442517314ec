"""Panel in which a model falls apart under one's hand: completions and loss of a sentence while its weights move."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING

import ipywidgets

from gdrop_viz.base.checks import instance
from gdrop_viz.widgets.chart import Chart
from gdrop_viz.widgets.code_box import CodeBox
from gdrop_viz.widgets.panel import LABEL_STYLE, ROW_LABEL_STYLE, row
from gdrop_viz.widgets.run_panel import RunPanel
from gdrop_viz.widgets.running import RemainingTime, Throttle, duration
from gdrop_viz.widgets.slider import NumberSlider
from gdrop_viz.widgets.words_explorer_state import BY, FRACTIONS, KINDS, SENTENCES, WordsExplorerState

if TYPE_CHECKING:
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape.words import WordsPath
    from gdrop_viz.models.pretrained import Pretrained


class WordsExplorer(RunPanel):
    """Move the most informative weights, and as many others by the same distance; watch what the model writes.

    Run computes some 20 distances once; then the slider answers at once.

    Parameters
    ----------
    lm
        The pretrained model. A run works on a copy of it, never on the caller's weights.
    fisher
        Fisher scores of `lm.model`.
    sentence
        A sentence with one blank, written `_`; by default one that suits the model's pretraining. A causal model goes
        on from what stands before the blank.
    k, seed, reach
        Where the controls stand at first: the fraction that moves, the draw of the direction, the farthest distance in
        units of the norm of the weights that move on the left.

    `state` holds the settings, the computed paths and `state.as_code()`.

    >>> explorer = WordsExplorer(lm, fisher)  # doctest: +SKIP
    """

    _kept = "The distances computed so far are kept."
    _given = ("lm", "fisher")

    def __init__(
        self,
        lm: Pretrained,
        fisher: Fisher,
        sentence: str | None = None,
        *,
        k: float = 0.01,
        seed: int = 0,
        reach: float = 1.0,
    ) -> None:
        from gdrop_viz.fisher import Fisher
        from gdrop_viz.models.pretrained import Pretrained

        super().__init__()
        self.lm = instance(lm, Pretrained, "lm", "load_pretrained")
        self.fisher = instance(fisher, Fisher, "fisher", "fisher_information")
        by = "element" if fisher.scores is not None else "tensor"
        sentence = SENTENCES[lm.objective] if sentence is None else sentence
        self.state = WordsExplorerState(sentence, k=k, by=by, seed=seed, reach=reach)
        self.state.text  # noqa: B018 (a sentence without a blank is refused here)
        self._build()
        self._show()

    def _build(self) -> None:
        state = self.state
        self.sentence = ipywidgets.Text(
            state.sentence, description="sentence", continuous_update=False, style=LABEL_STYLE
        )
        self.sentence.layout.width = "100%"
        fractions = [(f"{100 * k:g} %", k) for k in sorted({*FRACTIONS, state.k})]
        self.left = ipywidgets.Dropdown(description="left moves", options=KINDS, value=state.left)
        self.right = ipywidgets.Dropdown(description="right moves", options=KINDS, value=state.right)
        self.k = ipywidgets.Dropdown(description="k", options=fractions, value=state.k)
        self.by = ipywidgets.Dropdown(description="of", options=[(f"{by}s", by) for by in BY], value=state.by)
        choosers = [self.left, self.right, self.k, self.by]
        for chooser in choosers:
            chooser.style, chooser.layout.width = ROW_LABEL_STYLE, "auto"
        self.seed = NumberSlider("seed", value=state.seed, min=0, max=20, limit=10_000, step=1, integer=True)
        self.distance = NumberSlider(
            "distance", value=0.0, min=0.0, max=state.reach, step=state.reach / (state.n_distances - 1),
            help="1 = the norm of the weights that move on the left",
        )  # fmt: skip
        self.word_charts = [Chart(picture, height=200) for picture in state.words()]
        self.curve_chart = Chart(state.curve(), height=240)
        self.code = CodeBox(code=state.as_code())
        for control in (self.sentence, *choosers, self.seed):
            control.observe(self.guarded(lambda change: self._read_controls()), "value")
        self.distance.observe(self.guarded(lambda change: self._move()), "value")
        self.compose(
            [
                self.sentence,
                ipywidgets.HBox(choosers, layout={"flex_flow": "row wrap", "grid_gap": "0 14px"}),
                self.seed,
                self.buttons,
                self.progress,
                self.printed,
                self.distance,
                row(*((chart, "1 1 340px") for chart in self.word_charts)),
                self.curve_chart,
                self.code,
            ],
            charts=[*self.word_charts, self.curve_chart],
        )

    def _read_controls(self) -> None:
        state = self.state
        state.sentence, state.left, state.right = self.sentence.value, self.left.value, self.right.value
        state.k, state.by, state.seed = self.k.value, self.by.value, int(self.seed.value)
        self._show()
        self.show_message("")
        state.text  # noqa: B018 (says what is wrong with the sentence)

    def _move(self) -> None:
        steps = self.state.n_distances - 1
        self.state.at = min(steps, round(self.distance.value / self.state.reach * steps))
        self._draw()

    def _show(self) -> None:
        self._draw()
        self.code.code = self.state.as_code()
        if not self.runner.running:
            missing = len(self.state.missing())
            text = f"{missing} of {len(self.state.panels)} sides to compute: press Run."
            self.show_progress(float(not missing), text if missing else "Both sides are known: move the slider.")

    def _draw(self) -> None:
        for chart, picture in zip(self.word_charts, self.state.words(), strict=True):
            chart.show(picture)
        self.curve_chart.show(self.state.curve())

    def run(self) -> None:
        """Compute what is missing in the background; returns at once."""
        state = copy.copy(self.state)  # the settings of now; the paths are shared
        state.text  # noqa: B018 (refused before anything is begun)
        if not state.missing():
            self._show()
            return
        lm, fisher = self.lm, self.fisher  # a closed panel forgets them
        missing, throttle, remaining = state.missing(), Throttle(), RemainingTime()

        def on_point(label: str, path: WordsPath) -> None:
            done = sum(table is not None for table in path.completions)
            share = (missing.index(label) + done / state.n_distances) / len(missing)
            if throttle.ready(always=path.is_complete):
                self._draw()
                left = remaining.seconds(share)
                about = f", about {duration(left)} left" if left is not None and share < 1 else ""
                self.show_progress(share, f"{done} of {state.n_distances} distances, {label.split(',')[0]}{about}.")

        def job(stop: threading.Event) -> None:
            state.compute(lm, fisher, on_point=on_point, stopping=stop.is_set)

        self.start(job, "Starting: choosing the parameters and drawing the direction.")

    def _run_ended(self) -> None:
        if self.comm is not None:  # a closed panel has nothing to show
            self._show()
        super()._run_ended()

    def close(self) -> None:
        self.state.paths = {}
        super().close()
