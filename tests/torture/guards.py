"""Guards between a mishap and a wrong result; each can be removed for a while, to see its test fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

# guard -> the work of the kill campaign that must fail without it
OF_KILLS = {
    "renaming": "atomic write",
    "clearing up": "atomic write",
    "a checkpoint after each batch": "Fisher, means per tensor",
}


@contextmanager
def _in_place(path: Any) -> Iterator[Path]:
    """Writing without a temporary file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    yield Path(path)


def _without_clearing(path: Any, *, folder: bool = False) -> Any:
    return nullcontext()


def _rarely(self: Any, sums: Any, batches_done: int, *, always: bool = False) -> None:
    """Write at the end only, so that a life cut short after its second batch loses too much."""
    if self.path is not None and always:
        self.write(sums, batches_done)


_PATCHES: dict[str, Callable[[], list[Any]]] = {
    "renaming": lambda: [
        patch("tests.torture.kills.atomic_path", _in_place),
        patch("gdrop_viz.base.saved.atomic_path", _in_place),
    ],
    "clearing up": lambda: [patch("tests.torture.kills.exclusive", _without_clearing)],
    "a checkpoint after each batch": lambda: [patch("gdrop_viz.fisher.checkpoint.Checkpoint.write_if_due", _rarely)],
    "checksums of tensors": lambda: [patch("gdrop_viz.base.saved._tensors_checksum", lambda *_: "same")],
    "checksums of JSON": lambda: [patch("gdrop_viz.base.saved._json_checksum", lambda *_: "same")],
    "checksums of points": lambda: [
        patch("gdrop_viz.landscape.surface_file.checked_points", lambda file, marked: (marked, marked | True))
    ],
    "checksums of model files": lambda: [patch("gdrop_viz.models.pretrained.verify", lambda path: None)],
    "the modes": lambda: [
        patch("gdrop_viz.fisher.estimate.preserved_modes", lambda model: nullcontext(model.eval())),
    ],
    "requires_grad": lambda: [
        patch("gdrop_viz.fisher.batch.preserved_requires_grad", lambda model: nullcontext(model.requires_grad_(False)))
    ],
    "the weights": lambda: [patch("gdrop_viz.landscape.evaluation.MovedWeights._restore", lambda self, names: None)],
    "the generators": lambda: [patch("gdrop_viz.curvature.hessian.preserved_rng", nullcontext)],
    "the generators of surfaces": lambda: [patch("gdrop_viz.landscape.evaluation.preserved_rng", nullcontext)],
    "the rates": lambda: [patch("gdrop_viz.dropout.schedule.DropoutSchedule.set_rates", _set_for_good)],
}


def _set_for_good(self: Any, model: Any, batch: Any) -> Callable[[], None]:
    from gdrop_viz.sites.sites import locate

    for place in self._matching(model.base_model, locate(model)):
        place.control.set(self.rates[place.site.name])
    return lambda: None


@contextmanager
def removed(guard: str) -> Iterator[None]:
    """Work without the guard for a while."""
    with ExitStack() as stack:
        for one in _PATCHES[guard]():
            stack.enter_context(one)
        yield
