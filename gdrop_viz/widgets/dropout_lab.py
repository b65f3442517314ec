"""Panel to set the dropout rates, train the arms, and read which fine-tunes better."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from gdrop_viz.finetuning.events import Event
from gdrop_viz.plots.finetuning import comparison_picture
from gdrop_viz.widgets.chart import Chart
from gdrop_viz.widgets.code_box import CodeBox
from gdrop_viz.widgets.dropout_lab_state import ARMS, SCHEDULES, DropoutLabState
from gdrop_viz.widgets.live_curves import LiveCurves
from gdrop_viz.widgets.panel import LABEL_STYLE, list_html, row
from gdrop_viz.widgets.results import found_results, no_results, result_sentences
from gdrop_viz.widgets.run_panel import RunPanel
from gdrop_viz.widgets.running import Throttle
from gdrop_viz.widgets.slider import NumberSlider

if TYPE_CHECKING:
    from gdrop_viz.finetuning import Comparison
    from gdrop_viz.fisher import Fisher
    from gdrop_viz.models.pretrained import Pretrained
    from gdrop_viz.text.tasks import Task


class DropoutLab(RunPanel):
    """Set the bounds of guided dropout, see every site's rate at once, train the arms, read the verdict.

    Parameters
    ----------
    lm
        The pretrained model.
    task
        A labelled task; by default the bundled "sentiment".
    fisher
        Fisher scores of `lm.model`; by default they are estimated from 64 sequences of the bundled corpus, which takes
        some seconds.
    path
        Folder of the finished runs. What is found there is shown at once, and never trained again.
    lower, upper, arms, fraction, n_seeds, epochs
        Where the controls stand at first; arms are names from "guided", "standard 0.1", "same mean", "reversed",
        "shuffled" and "no dropout".
    **options
        More keyword arguments of `gv.compare`, such as `batch_size=8`.

    Attributes
    ----------
    state : DropoutLabState
        The settings, and `state.as_code()`.
    result : Comparison or None
        The latest result.

    Notes
    -----
    Training runs in a thread of this process and draws from its random generators: a cell that seeds or draws random
    numbers meanwhile changes the dropout masks of the run.

    >>> lab = DropoutLab(lm, task, fisher)  # doctest: +SKIP
    """

    _kept = "Finished runs are kept."
    _given = ("lm", "task")

    def __init__(
        self,
        lm: Pretrained,
        task: Task | None = None,
        fisher: Fisher | None = None,
        *,
        path: str | Path = "runs/",
        lower: float = 0.0,
        upper: float = 0.1,
        arms: tuple[str, ...] = ("guided", "standard 0.1", "same mean"),
        fraction: float = 1.0,
        n_seeds: int = 3,
        epochs: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        self.lm = lm
        self.result: Comparison | None = None
        preamble = []
        if task is None:
            from gdrop_viz.text.tasks import load_task

            task = load_task("sentiment")
            preamble.append('task = gv.load_task("sentiment")')
        if fisher is None:
            fisher = _default_fisher(lm)
            preamble += [
                "batches = gv.pretraining_batches(lm, n_sequences=64)",
                'fisher = gv.fisher_information(lm.model, batches, resolution="tensor")',
            ]
        from gdrop_viz.dropout import guided_dropout

        self.task = task
        self.state = DropoutLabState(
            guided_dropout(lm.model, fisher, lower=0.0, upper=0.1),
            lower=float(lower),
            upper=float(upper),
            arms=tuple(arms),
            fraction=float(fraction),
            n_seeds=n_seeds,
            epochs=epochs,
            path=str(path),
            options=options,
            preamble=tuple(preamble),
        )
        self._build()
        self._connect()
        self.guarded(self._find_results)()
        self.guarded(self.offer_to_take_over)()

    def folder(self) -> Path:
        """Where the finished runs are kept."""
        return Path(self.state.path)

    # ---- controls ----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        state = self.state
        bounds = {"min": 0.0, "max": state.max_rate, "limit": 0.99, "step": 0.01}
        self.lower = NumberSlider("lower", value=state.lower, help="rate at the most informative site", **bounds)
        self.upper = NumberSlider("upper", value=state.upper, help="rate at the least informative site", **bounds)
        self.kind = ipywidgets.Dropdown(
            description="schedule", options=list(SCHEDULES), value=state.kind, style=LABEL_STYLE
        )
        self.arms = {arm: ipywidgets.Checkbox(arm in state.arms, description=arm, indent=False) for arm in ARMS}
        for box in self.arms.values():
            box.layout.width = "auto"
        least = min(0.05, state.fraction)  # wide enough for what the caller asked for
        whole = {"min": 1, "max": 20, "limit": 10_000, "step": 1, "integer": True}
        self.fraction = NumberSlider("data fraction", value=state.fraction, min=least, max=1.0, step=0.05)
        self.seeds = NumberSlider("seeds", value=state.n_seeds, **whole)
        self.epochs = NumberSlider("epochs", value=state.epochs, **whole)
        self.preview_chart = Chart(state.preview(), height=250)
        self.curves_chart = Chart(LiveCurves(epochs=state.epochs, arms=[]).picture(), height=220)
        self.result_chart = Chart(no_results(self.task, state.epochs), height=220)
        self.verdict = ipywidgets.HTML()
        self.code = CodeBox(code=state.as_code())
        arms = ipywidgets.HBox(
            [ipywidgets.HTML("arms to train:"), *self.arms.values()],
            layout={"flex_flow": "row wrap", "grid_gap": "0 12px"},
        )
        sliders = [self.fraction, self.seeds, self.epochs]
        controls = ipywidgets.VBox(
            [self.lower, self.upper, self.kind, arms, *sliders, self.buttons, self.progress, self.printed]
        )
        self.compose(
            [
                row((controls, "1 1 300px"), (self.preview_chart, "2 1 400px")),
                row((self.curves_chart, "1 1 340px"), (self.result_chart, "1 1 340px")),
                self.verdict,
                self.code,
            ],
            charts=[self.preview_chart, self.result_chart],
        )

    def _connect(self) -> None:
        on = self.guarded
        self.lower.observe(on(lambda change: self._set_bounds(lower=change.new)), "value")
        self.upper.observe(on(lambda change: self._set_bounds(upper=change.new)), "value")
        for widget in (self.kind, self.fraction, self.seeds, self.epochs, *self.arms.values()):
            widget.observe(on(lambda change: self._read_controls()), "value")

    def _set_bounds(self, **bound: float) -> None:
        self.state.set_bounds(**bound)
        self._show_preview()
        # last, for it calls back: where the bounds would cross, the other slider follows
        self.lower.value, self.upper.value = self.state.lower, self.state.upper

    def _read_controls(self) -> None:
        state = self.state
        state.kind = self.kind.value
        state.arms = tuple(arm for arm, box in self.arms.items() if box.value)
        state.fraction, state.n_seeds, epochs = self.fraction.value, int(self.seeds.value), int(self.epochs.value)
        other_training, state.epochs = epochs != state.epochs, epochs
        self._show_preview()
        if other_training and not self.runner.running:
            self._find_results()

    def _show_preview(self) -> None:
        self.preview_chart.show(self.state.preview())
        self.code.code = self.state.as_code()
        self.show_message("")

    # ---- runs --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train what is not on disk yet, in the background; returns at once."""
        call = self.state.call()
        unit = "squared label units" if self.task.kind == "regression" else "nats"
        curves = LiveCurves(epochs=call["epochs"], arms=list(call["arms"]), loss_unit=unit)
        throttle = Throttle()
        lm, task = self.lm, self.task  # a closed panel forgets them

        def on_event(event: Event) -> None:
            curves.add(event)
            if throttle.ready(always=event.kind in ("run finished", "finished", "stopped")):
                self.curves_chart.show(curves.picture())
                self.show_progress(curves.share, curves.sentence())

        def job(stop: threading.Event) -> None:
            from gdrop_viz.finetuning import compare

            result = compare(lm, task, **call, on_event=on_event, stop=stop, progress=False)
            self._show_result(result)

        self.start(job, "Starting: loading the trainer.")

    # ---- results -----------------------------------------------------------------------------------------------

    def _run_ended(self) -> None:
        if self.comm is not None and self.result is None:  # another page's run, taken over, may have left some
            self._find_results()
        super()._run_ended()

    def _find_results(self) -> None:
        """Show what is on disk of trainings like the one now set; other epochs are another training."""
        settings = {"epochs": self.state.epochs, **self.state.options}
        result = found_results(Path(self.state.path), self.lm, self.task, settings)
        if result is not None:
            self._show_result(result)
        elif self.result is not None:
            self.result, self.verdict.value = None, ""
            self.result_chart.show(no_results(self.task, self.state.epochs))

    def _show_result(self, result: Comparison) -> None:
        self.result = result
        if not result.runs.empty:  # else it was stopped before its first run was finished
            self.result_chart.show(comparison_picture(result))
            self.verdict.value = list_html(result_sentences(result))


def _default_fisher(lm: Pretrained) -> Fisher:
    from gdrop_viz.fisher import fisher_information
    from gdrop_viz.text.batches import pretraining_batches

    return fisher_information(lm.model, pretraining_batches(lm, n_sequences=64), resolution="tensor")
