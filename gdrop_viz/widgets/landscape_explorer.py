"""Panel of two loss surfaces side by side: what happens when the most informative parameters move."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from gdrop_viz.base.checks import instance
from gdrop_viz.base.files import file_stem
from gdrop_viz.models.batches import as_batches
from gdrop_viz.widgets.chart import Chart
from gdrop_viz.widgets.code_box import CodeBox
from gdrop_viz.widgets.landscape_explorer_state import BY, FRACTIONS, KINDS, NORMALIZATIONS, LandscapeExplorerState
from gdrop_viz.widgets.panel import ROW_LABEL_STYLE, row
from gdrop_viz.widgets.run_panel import RunPanel
from gdrop_viz.widgets.running import RemainingTime, Throttle, duration
from gdrop_viz.widgets.slider import NumberSlider

if TYPE_CHECKING:
    from torch import nn

    from gdrop_viz.fisher import Fisher
    from gdrop_viz.landscape import Surface, SurfacePoint
    from gdrop_viz.models.pretrained import Pretrained


class LandscapeExplorer(RunPanel):
    """Choose which parameters move and how; known surfaces appear at once, new ones grow from coarse to fine.

    Parameters
    ----------
    lm
        The pretrained model. A run works on a copy of it, so that cells may use the model meanwhile.
    fisher
        Fisher scores of `lm.model`.
    batches
        What `gv.pretraining_batches` returns: every point sees this text.
    path
        Folder for the surfaces, one HDF5 file each; what lies there is shown without being computed again.
    points, radius, k, seed
        Where the controls stand at first.

    `state` holds the settings, the surfaces and `state.as_code()`.

    >>> explorer = LandscapeExplorer(lm, fisher, batches)  # doctest: +SKIP
    """

    _kept = "The points computed so far are kept."
    _given = ("lm", "fisher", "batches")
    _links: tuple[ipywidgets.Widget, ...] = ()

    def __init__(
        self,
        lm: Pretrained,
        fisher: Fisher,
        batches: Any,
        *,
        path: str | Path = "runs/surfaces",
        points: int = 21,
        radius: float = 1.0,
        k: float = 0.01,
        seed: int = 0,
    ) -> None:
        from gdrop_viz.fisher import Fisher
        from gdrop_viz.models.pretrained import Pretrained

        super().__init__()
        instance(lm, Pretrained, "lm", "load_pretrained")
        instance(fisher, Fisher, "fisher", "fisher_information")
        batches = as_batches(batches)
        self.lm, self.fisher, self.batches = lm, fisher, batches
        by = "element" if fisher.scores is not None else "tensor"
        folder = Path(path) / _identity(lm, fisher, batches)
        self.state = LandscapeExplorerState(folder, k=k, by=by, seed=seed, radius=radius, points=points)
        self._build()
        self._connect()
        self._show()
        self.guarded(self.offer_to_take_over)()

    def folder(self) -> Path:
        """Where the surfaces are kept."""
        return self.state.folder

    # ---- controls ----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        state = self.state
        fractions = sorted({*FRACTIONS, state.k})
        options = [(f"{100 * fraction:g} %", fraction) for fraction in fractions]
        self.left = ipywidgets.Dropdown(description="left moves", options=KINDS, value=state.left)
        self.right = ipywidgets.Dropdown(description="right moves", options=KINDS, value=state.right)
        self.k = ipywidgets.Dropdown(description="k", options=options, value=state.k)
        self.by = ipywidgets.Dropdown(description="of", options=[(f"{by}s", by) for by in BY], value=state.by)
        self.normalize = ipywidgets.Dropdown(description="normalise", options=NORMALIZATIONS, value=state.normalize)
        for chooser in (self.left, self.right, self.k, self.by, self.normalize):
            chooser.style, chooser.layout.width = ROW_LABEL_STYLE, "auto"
        self.seed = NumberSlider("seed", value=state.seed, min=0, max=20, step=1, integer=True)
        self.radius = NumberSlider(
            "radius", value=state.radius, min=0.05, max=3.0, limit=1000.0, step=0.05, help="of the grid"
        )
        self.points = NumberSlider(
            "points", value=state.points, min=3, max=51, limit=501, step=2, odd=True,
            help="per axis; odd, so that one point is exactly the trained weights",
        )  # fmt: skip
        state.points = int(self.points.value)
        self.same_distance = ipywidgets.Checkbox(state.same_distance, description="same distance", indent=False)
        self.log_scale = ipywidgets.Checkbox(state.log, description="logarithmic", indent=False)
        self.relief = ipywidgets.Checkbox(False, description="3-D", indent=False)
        for box in (self.same_distance, self.log_scale, self.relief):
            box.layout.width = "auto"
        self.propose_button = ipywidgets.Button(description="Propose radius", icon="arrows-h")
        self.propose_button.layout.width = "auto"
        self.buttons.children = (*self.buttons.children, self.propose_button)
        self.charts = [Chart(picture, height=300) for picture in state.pictures()]
        self.section_chart = Chart(state.cross_section([]), height=220)
        self.code = CodeBox(code=state.as_code())
        # in the browser, without asking a kernel that may be busy: both turn together and show the same point
        self._links = (
            *(ipywidgets.jslink(*((chart, name) for chart in self.charts)) for name in ("angles", "cursor")),
            *(ipywidgets.jslink((self.relief, "value"), (chart, "relief")) for chart in self.charts),
        )
        self._controls = (
            *(self.left, self.right, self.k, self.by, self.normalize),
            *(self.seed, self.radius, self.points, self.same_distance, self.log_scale),
        )
        wrapped = {"flex_flow": "row wrap", "grid_gap": "0 14px"}
        choosers = [self.left, self.right, self.k, self.by, self.normalize]
        boxes = [self.same_distance, self.log_scale, self.relief]
        self.compose(
            [
                ipywidgets.HBox([*choosers, *boxes], layout=wrapped),
                row((self.seed, "1 1 220px"), (self.radius, "1 1 220px"), (self.points, "1 1 220px")),
                self.buttons,
                self.progress,
                self.printed,
                row(*((chart, "1 1 340px") for chart in self.charts)),
                self.section_chart,
                self.code,
            ],
            charts=self.charts,
        )

    def _connect(self) -> None:
        for control in self._controls:
            control.observe(self.guarded(lambda change: self._read_controls()), "value")
        self.relief.observe(self.guarded(lambda change: self._set_relief(change.new)), "value")
        self.charts[0].observe(self.guarded(lambda change: self._show_section()), "cursor")

        self.propose_button.on_click(self.guarded(lambda button: self.propose_radius()))

    def _read_controls(self) -> None:
        state = self.state
        state.left, state.right, state.k, state.by = self.left.value, self.right.value, self.k.value, self.by.value
        state.normalize, state.seed, state.radius = self.normalize.value, int(self.seed.value), self.radius.value
        state.points = int(self.points.value)
        state.same_distance, state.log = self.same_distance.value, self.log_scale.value
        self._show()
        self.show_message("")

    def _set_relief(self, relief: bool) -> None:
        for chart in self.charts:
            chart.relief = relief

    # ---- pictures ----------------------------------------------------------------------------------------------

    def _show(self) -> None:
        state = self.state
        state.find()
        self._draw()
        self.code.code = state.as_code()
        if not self.runner.running:
            missing = len(state.missing())
            known = (
                "both surfaces are known" if not missing else f"{missing} of {len(state.panels)} surfaces to compute"
            )
            self.show_progress(float(not missing), known.capitalize() + ".")

    def _draw(self) -> None:
        for chart, picture in zip(self.charts, self.state.pictures(), strict=True):
            chart.show(picture)
        self._show_section()

    def _show_section(self) -> None:
        self.section_chart.show(self.state.cross_section(self.charts[0].cursor))

    # ---- runs --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Compute what is missing in the background; returns at once."""
        state = copy.copy(self.state)  # the settings of now; the surfaces are shared
        if not state.missing():
            self._show()  # says that both are known
            return
        lm, fisher, batches = self.lm, self.fisher, self.batches  # a closed panel forgets them
        throttle, remaining = Throttle(), RemainingTime()
        latest: dict[str, Callable[[], Surface]] = {}

        def on_point(point: SurfacePoint) -> None:
            share = point.n_done / point.n_points
            if not latest:
                remaining.skip(share)  # what an earlier run left on disk
            latest[point.label] = point.surface
            last = point.n_done == point.n_points
            if throttle.ready(always=last):
                state.surfaces.update({label: surface() for label, surface in latest.items()})
                self._draw()
                left = remaining.seconds(share)
                about = f", about {duration(left)} left" if left is not None and not last else ""
                text = f"{point.n_done} of {point.n_points} points{about}."
                self.show_progress(share, text)

        def job(stop: threading.Event) -> None:
            from gdrop_viz.landscape import loss_surfaces

            self.state.computing = set(state.missing())
            model = _copied(lm)  # its weights move while cells may use the caller's
            planes = state.planes(model, fisher)
            planes = {label: planes[label] for label in state.missing()}
            if stop.is_set():
                return
            surfaces = loss_surfaces(
                model,
                batches,
                planes,
                extent=state.radius,
                points=state.points,
                folder=state.folder,
                progress=False,
                on_point=on_point,
                stop=stop,
            )
            state.surfaces.update(surfaces)

        self.start(job, "Starting: choosing the parameters and drawing the directions.")

    def propose_radius(self) -> None:
        """Set the radius at which both basin and walls are seen; found in the background."""
        state = copy.copy(self.state)
        lm, fisher, batches = self.lm, self.fisher, self.batches

        def job(stop: threading.Event) -> None:
            from gdrop_viz.landscape import proposed_extent

            model = _copied(lm)
            planes = state.planes(model, fisher).values()
            try:
                extents = [proposed_extent(model, batches, directions, stop=stop) for directions in planes]
            except RuntimeError:
                if stop.is_set():
                    return
                raise
            self.radius.value = max(extents)

        self.start(job, "Looking for the radius at which the loss has risen by a nat.")

    def _run_ended(self) -> None:
        self.state.computing = set()
        if self.comm is not None:  # a closed panel has nothing to show
            self._show()
        super()._run_ended()

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.state.surfaces = {}  # the files stay
        super().close()


def _copied(lm: Pretrained) -> nn.Module:
    """A copy of the model that knows its objective."""
    from gdrop_viz.models.own_loss import state_objective

    model = copy.deepcopy(lm.model)
    state_objective(model, lm.objective)
    return model


def _identity(lm: Pretrained, fisher: Fisher, batches: Sequence[Mapping[str, Any]]) -> str:
    """A folder name for what determines a surface besides its label: nobody else's surfaces are shown as these."""
    from gdrop_viz.base.digest import digest
    from gdrop_viz.models.digest import model_digest

    scores = fisher.means if fisher.scores is None else fisher.scores
    return f"{file_stem(lm.name)}-{digest(model_digest(lm.model), lm.objective, dict(scores), list(batches))[:16]}"
