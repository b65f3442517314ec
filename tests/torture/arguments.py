"""Bad arguments of every public function: refused at once, in one line, with nothing changed.

The table below holds, for each public name, calls that are wrong in one way each. A call passes if it raises one of the
documented kinds of exception, in one line, within a second of CPU time, and leaves model and process as they were.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch import nn

import gdrop_viz as gv
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.torture.book import Book
from tests.unchanged import differences, snapshot

DOCUMENTED = (ValueError, TypeError, FileNotFoundError, IsADirectoryError, NotADirectoryError, RuntimeError)
SECONDS = 1.0

Call = Callable[[Any], Any]


class World:
    """What the calls may use. `lm.model` is watched for changes."""

    def __init__(self) -> None:
        # libraries set variables of the environment when they are first imported: that is not the calls' doing
        import sklearn.metrics  # noqa: F401

        from tests.finetuning.conftest import animal_rows

        warnings.simplefilter("ignore")
        mpl.use("Agg")
        self.lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")
        self.model = self.lm.model
        self.other = random_bert(1, hidden_size=8, num_hidden_layers=1)
        self.plain = nn.Linear(3, 2)
        self.few_words = random_bert(vocab_size=12)
        self.texts = sentences(30)
        settings = {"n_sequences": 6, "batch_size": 3, "max_length": 10, "progress": False}
        self.batches = gv.pretraining_batches(self.lm, self.texts, **settings)
        self.fisher = gv.fisher_information(self.model, self.batches, progress=False)
        self.means = gv.fisher_information(self.model, self.batches, resolution="tensor", progress=False)
        self.other_batches = [{k: v.clone() for k, v in batch.items()} for batch in self.batches]
        self.other_fisher = gv.fisher_information(self.other, self.other_batches, progress=False)
        self.top = gv.top_k(self.fisher, 0.1)
        self.d = gv.random_direction(self.model, seed=0)
        self.e = gv.random_direction(self.model, seed=1)
        self.other_d = gv.random_direction(self.other, seed=0)
        self.schedule = gv.guided_dropout(self.model, self.fisher)
        self.other_schedule = gv.guided_dropout(self.other, self.other_fisher)
        x = np.linspace(-1, 1, 5)
        self.surface = gv.Surface(x, x, np.add.outer(x**2, x**2))
        self.line = gv.Surface(x, None, x**2)
        self.task = gv.Task("animals", train=animal_rows(24, seed=0), validation=animal_rows(12, seed=1))
        rows = [(a, 1.0, s, 1, "validation", "accuracy", 0.5 + s / 9, 0.1) for a in "ab" for s in (0, 1, 2)]
        from gdrop_viz.finetuning.run_table import COLUMNS

        self.comparison = gv.Comparison(pd.DataFrame(rows, columns=COLUMNS), "accuracy", {"task": "t"})
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "empty.csv").touch()
        (self.folder / "numbers.csv").write_text("text,label\na b c,0\nd e f,0\n")
        (self.folder / "gaps.csv").write_text("text,label\na b c,\n,1\nd,0\n")
        self.without_dropout = random_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def batch(self, **changes: Any) -> list[dict[str, Any]]:
        """One sound batch with entries replaced (None: left out)."""
        batch = {**self.batches[0], **changes}
        return [{name: value for name, value in batch.items() if value is not None}]

    def with_weight(self, value: float) -> nn.Module:
        """A copy of the model with one weight replaced."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            model.bert.encoder.layer[0].output.dense.weight[0, 0] = value
        return model


@cache
def world() -> World:
    return World()


def _fisher_calls(w: World) -> dict[str, Call]:
    run = lambda *a, **k: gv.fisher_information(*a, **{"progress": False, **k})  # noqa: E731
    labels = w.batches[0]["labels"]
    ids = w.batches[0]["input_ids"]
    long = torch.ones(2, 70, dtype=torch.long)
    return {
        "no model": lambda w: run("bert", w.batches),
        "a number for a model": lambda w: run(3, w.batches),
        "a model without parameters": lambda w: run(nn.ReLU(), w.batches, loss=lambda o, b: o.sum(-1)),
        "no batches": lambda w: run(w.model, []),
        "text for batches": lambda w: run(w.model, "text"),
        "None for batches": lambda w: run(w.model, None),
        "an empty batch": lambda w: run(w.model, [{}]),
        "no labels": lambda w: run(w.model, w.batch(labels=None)),
        "labels of text": lambda w: run(w.model, w.batch(labels="cat")),
        "no predicted token": lambda w: run(w.model, w.batch(labels=torch.full_like(labels, -100))),
        "one sequence without": lambda w: run(
            w.model, w.batch(labels=torch.where(torch.arange(len(labels))[:, None] == 1, -100, labels))
        ),
        "labels out of range": lambda w: run(w.model, w.batch(labels=torch.full_like(labels, 10_000))),
        "negative labels": lambda w: run(w.model, w.batch(labels=torch.full_like(labels, -5))),
        "another tokenizer's ids": lambda w: run(w.model, w.batch(input_ids=ids + 1000)),
        "negative token ids": lambda w: run(w.model, w.batch(input_ids=ids - 1000)),
        "too long": lambda w: run(w.model, [{"input_ids": long, "labels": long}]),
        "labels of another length": lambda w: run(w.model, w.batch(labels=labels[:, :-2])),
        "an unknown estimator": lambda w: run(w.model, w.batches, estimator="true"),
        "an unknown resolution": lambda w: run(w.model, w.batches, resolution="layer"),
        "an unknown method": lambda w: run(w.model, w.batches, method="magic"),
        "no draws": lambda w: run(w.model, w.batches, estimator="sampled", draws=0),
        "half a draw": lambda w: run(w.model, w.batches, estimator="sampled", draws=0.5),
        "exact with many predictions": lambda w: run(
            w.model, w.batch(labels=torch.where(ids > 4, ids, -100)), estimator="exact"
        ),
        "loss is no function": lambda w: run(w.model, w.batches, loss=3),
        "loss of a wrong shape": lambda w: run(w.model, w.batches, loss=lambda o, b: o.logits.sum()),
        "loss of text": lambda w: run(w.model, w.batches, loss=lambda o, b: "low"),
        "NaN loss": lambda w: run(w.model, w.batches, loss=lambda o, b: o.logits.sum((1, 2)) * float("nan")),
        "infinite loss": lambda w: run(w.model, w.batches, loss=lambda o, b: o.logits.sum((1, 2)) + float("inf")),
        "NaN weights": lambda w: run(w.with_weight(float("nan")), w.batches),
        "infinite weights": lambda w: run(w.with_weight(float("inf")), w.batches),
        "parameters that are none": lambda w: run(w.model, w.batches, parameters=["nothing"]),
        "an empty list of parameters": lambda w: run(w.model, w.batches, parameters=[]),
        "confidence 1": lambda w: run(w.model, w.batches, stop_when_stable=1.0),
        "confidence as text": lambda w: run(w.model, w.batches, stop_when_stable="high"),
        "a folder as checkpoint": lambda w: run(w.model, w.batches, checkpoint=w.folder),
        "a foreign checkpoint": lambda w: run(w.model, w.batches, checkpoint=w.folder / "numbers.csv"),
        "a seed of text": lambda w: run(w.model, w.batches, estimator="sampled", seed="x"),
    }


def table(w: World) -> dict[str, dict[str, Call]]:
    """Public function or method -> what is wrong -> the call."""
    nan, inf = float("nan"), float("inf")
    quiet = {"progress": False}
    batches = lambda **k: gv.pretraining_batches(w.lm, **{"texts": w.texts, **quiet, **k})  # noqa: E731
    surface = lambda *a, **k: gv.loss_surface(*a, **{**quiet, "points": 3, **k})  # noqa: E731
    compare = lambda arms=None, **k: gv.compare(  # noqa: E731
        w.lm, k.pop("task", w.task), {"a": 0.1} if arms is None else arms, **{"seeds": [0], **quiet, **k}
    )
    tune = lambda **k: gv.fine_tune(k.pop("lm", w.lm), k.pop("task", w.task), k.pop("arm", 0.1), **k)  # noqa: E731
    hessian = {
        "no model": lambda f: f("x", w.batches, **quiet),
        "no batches": lambda f: f(w.model, [], **quiet),
        "no labels": lambda f: f(w.model, w.batch(labels=None), **quiet),
        "a selection of another model": lambda f: f(w.model, w.batches, selection=gv.top_k(w.other_fisher, 5), **quiet),
        "text for a selection": lambda f: f(w.model, w.batches, selection="top", **quiet),
        "NaN weights": lambda f: f(w.with_weight(nan), w.batches, **quiet),
    }
    selecting = {
        **{f"k = {k!r}": lambda f, k=k: f(k) for k in (0, 0.0, 1.5, -1, -0.5, nan, inf, "a lot", None, True, 10**9)},
        "an unknown unit": lambda f: f(0.1, by="head"),
        "an unknown within": lambda f: f(0.1, within="layer"),
        "parameters that accept none": lambda f: f(0.1, parameters=lambda name: False),
    }
    return {
        "load_pretrained": {
            "a number": lambda w: gv.load_pretrained(3),
            "None": lambda w: gv.load_pretrained(None),
            "empty text": lambda w: gv.load_pretrained(""),
            "no such folder": lambda w: gv.load_pretrained("./nowhere"),
            "a folder without a model": lambda w: gv.load_pretrained(w.folder),
            "an unknown objective": lambda w: gv.load_pretrained("bert-mini", objective="xlnet"),
        },
        "Pretrained": {
            "no model": lambda w: gv.Pretrained("bert", None),
            "an unknown objective": lambda w: gv.Pretrained(w.model, None, objective="next"),
        },
        "pretraining_batches": {
            "a model for lm": lambda w: gv.pretraining_batches(w.model),
            "no texts": lambda w: batches(texts=[]),
            "empty text": lambda w: batches(texts=["", "  "]),
            "texts too short": lambda w: batches(texts=["a", "b c"]),
            "numbers for texts": lambda w: batches(texts=[1, 2]),
            "a number for texts": lambda w: batches(texts=7),
            "one long text": lambda w: batches(texts="a\nb"),
            "no such file": lambda w: batches(texts="./nowhere.txt"),
            "an empty file": lambda w: batches(texts=w.folder / "empty.csv"),
            "no column of text": lambda w: batches(texts=w.folder / "numbers.csv", column="label"),
            **{f"n_sequences={n!r}": lambda w, n=n: batches(n_sequences=n) for n in (0, -1, 2.5, "all")},
            **{f"batch_size={n!r}": lambda w, n=n: batches(batch_size=n) for n in (0, -1, 2.5, None)},
            **{f"max_length={n!r}": lambda w, n=n: batches(max_length=n) for n in (0, -1, 2, 65, 1000, 2.5)},
            "a seed of text": lambda w: batches(seed="x"),
            "a tokenizer without a mask": lambda w: gv.pretraining_batches(
                replace(w.lm, tokenizer=_without_mask()), w.texts, max_length=10, **quiet
            ),
            "no tokenizer": lambda w: gv.pretraining_batches(replace(w.lm, tokenizer=None), w.texts, **quiet),
            "another model's tokenizer": lambda w: gv.pretraining_batches(
                replace(w.lm, model=w.few_words), w.texts, max_length=10, **quiet
            ),
        },
        "sequence_losses": {
            "no labels": lambda w: gv.sequence_losses(w.model, w.batch(labels=None)[0]),
            "loss of a wrong shape": lambda w: gv.sequence_losses(w.model, w.batches[0], loss=lambda o, b: o.logits),
        },
        "fisher_information": _fisher_calls(w),
        "Fisher.from_means": {
            "nothing": lambda w: gv.Fisher.from_means({}),
            "negative": lambda w: gv.Fisher.from_means({"a": -1.0}),
            "NaN": lambda w: gv.Fisher.from_means({"a": nan}),
            "text": lambda w: gv.Fisher.from_means({"a": "much"}),
            "numbers for names": lambda w: gv.Fisher.from_means({1: 1.0}),
            "None": lambda w: gv.Fisher.from_means(None),
        },
        "Fisher.grouped": {"an unknown grouping": lambda w: w.fisher.grouped("token")},
        "Fisher.heads": {"means only": lambda w: w.means.heads()},
        "Fisher.neurons": {
            "means only": lambda w: w.means.neurons("x"),
            "no such matrix": lambda w: w.fisher.neurons("nothing"),
        },
        "Fisher.located": {
            "means only": lambda w: w.means.located(0.1),
            **{f"fraction {x}": lambda w, x=x: w.fisher.located(x) for x in (0, 1.5, -1, nan)},
        },
        "Fisher.load": {
            "no file": lambda w: gv.Fisher.load(w.folder / "none"),
            "a folder": lambda w: gv.Fisher.load(w.folder),
            "a table": lambda w: gv.Fisher.load(w.folder / "numbers.csv"),
        },
        "Fisher.save": {"a folder": lambda w: w.fisher.save(w.folder)},
        "top_k": {
            "no Fisher": lambda w: gv.top_k({"a": 1}, 0.1),
            "means only": lambda w: gv.top_k(w.means, 0.1),
            **{what: lambda w, c=c: c(lambda *a, **k: gv.top_k(w.fisher, *a, **k)) for what, c in selecting.items()},
        },
        "bottom_k": {
            "no Fisher": lambda w: gv.bottom_k(None, 0.1),
            **{what: lambda w, c=c: c(lambda *a, **k: gv.bottom_k(w.fisher, *a, **k)) for what, c in selecting.items()},
        },
        "random_k": {
            "no model": lambda w: gv.random_k("x", 0.1),
            **{what: lambda w, c=c: c(lambda *a, **k: gv.random_k(w.model, *a, **k)) for what, c in selecting.items()},
        },
        "select": {
            "no model": lambda w: gv.select(3, ["a"]),
            "names that are none": lambda w: gv.select(w.model, ["nothing"]),
            "accepts none": lambda w: gv.select(w.model, lambda name: False),
            "an empty list": lambda w: gv.select(w.model, []),
        },
        "Selection": {
            "a mask of a wrong shape": lambda w: gv.Selection({"a": torch.ones(2, dtype=torch.bool)}, {"a": (3,)}),
            "a mask of numbers": lambda w: gv.Selection({"a": torch.ones(3)}, {"a": (3,)}),
            "an unknown name": lambda w: w.top.mask("nothing"),
            "another model": lambda w: w.top.on(w.other),
            "union with text": lambda w: w.top | "all",
            "selections of two models": lambda w: w.top & gv.top_k(w.other_fisher, 5),
            "no file": lambda w: gv.Selection.load(w.folder / "none"),
            "an unknown grouping": lambda w: w.top.to_frame("head"),
        },
        "random_direction": {
            "no model": lambda w: gv.random_direction("x"),
            "an unknown normalisation": lambda w: gv.random_direction(w.model, normalize="layer"),
            "text for a selection": lambda w: gv.random_direction(w.model, selection="top"),
            "a selection of another model": lambda w: gv.random_direction(
                w.model, selection=gv.top_k(w.other_fisher, 5)
            ),
            "vectors only": lambda w: gv.random_direction(
                w.model, selection=gv.select(w.model, lambda n: n.endswith("bias"))
            ),
            **{f"norm {x}": lambda w, x=x: gv.random_direction(w.model, norm=x) for x in (0.0, -1.0, nan)},
            "a seed of text": lambda w: gv.random_direction(w.model, seed="x"),
        },
        "gradient_direction": {
            "no model": lambda w: gv.gradient_direction(3, w.batches),
            "no batches": lambda w: gv.gradient_direction(w.model, []),
            "no labels": lambda w: gv.gradient_direction(w.model, w.batch(labels=None)),
        },
        "difference_direction": {
            "a number": lambda w: gv.difference_direction(w.model, 3),
            "another model": lambda w: gv.difference_direction(w.model, w.other),
            "no shared name": lambda w: gv.difference_direction(w.model, {"nothing": torch.ones(2)}),
        },
        "Direction": {
            "nothing moves": lambda w: gv.Direction({}),
            "norm 0": lambda w: w.d.scaled(0),
            "no file": lambda w: gv.Direction.load(w.folder / "none"),
            "a folder": lambda w: gv.Direction.load(w.folder),
        },
        "orthogonalized": {"the same twice": lambda w: gv.orthogonalized(w.d, w.d)},
        "loss_surface": {
            "no model": lambda w: surface("x", w.batches, w.d),
            "a Pretrained": lambda w: surface(w.lm, w.batches, w.d),
            "no batches": lambda w: surface(w.model, [], w.d),
            "text for batches": lambda w: surface(w.model, ["text"], w.d),
            "no directions": lambda w: surface(w.model, w.batches, []),
            "three directions": lambda w: surface(w.model, w.batches, [w.d, w.e, w.d]),
            "a seed for a direction": lambda w: surface(w.model, w.batches, [0, 1]),
            "a direction of another model": lambda w: surface(w.model, w.batches, w.other_d),
            **{
                f"points {n!r}": lambda w, n=n: surface(w.model, w.batches, w.d, points=n) for n in (0, -3, 2.5, "many")
            },
            "points for three axes": lambda w: surface(w.model, w.batches, [w.d, w.e], points=[3, 3, 3]),
            **{
                f"extent {x!r}": lambda w, x=x: surface(w.model, w.batches, w.d, extent=x)
                for x in (0, -1.0, nan, inf, "wide")
            },
            "reversed bounds": lambda w: surface(w.model, w.batches, w.d, extent=[(1.0, -1.0)]),
            "a metric that is none": lambda w: surface(w.model, w.batches, w.d, metrics={"accuracy": 3}),
            "a metric's bad name": lambda w: surface(w.model, w.batches, w.d, metrics={"a/b": len}),
            "no executor": lambda w: surface(w.model, w.batches, w.d, executor="pool"),
            "no labels": lambda w: surface(w.model, w.batch(labels=None), w.d),
            "a foreign file": lambda w: surface(w.model, w.batches, w.d, path=w.folder / "numbers.csv"),
            "a folder as path": lambda w: surface(w.model, w.batches, w.d, path=w.folder),
        },
        "loss_surfaces": {
            "no planes": lambda w: gv.loss_surfaces(w.model, w.batches, {}, **quiet),
            "a line and a plane": lambda w: gv.loss_surfaces(w.model, w.batches, {"a": w.d, "b": [w.d, w.e]}, **quiet),
            "names that share a file": lambda w: gv.loss_surfaces(
                w.model, w.batches, {"a:b": w.d, "a/b": w.e}, folder=w.folder / "surfaces", **quiet
            ),
        },
        "Surface": {
            "a loss of a wrong shape": lambda w: gv.Surface(np.zeros(3), None, np.zeros(4)),
            "no file": lambda w: gv.Surface.load(w.folder / "none.h5"),
            "a folder": lambda w: gv.Surface.load(w.folder),
            "an unknown ending": lambda w: w.surface.save(w.folder / "s.xlsx"),
            "vtk of a line": lambda w: w.line.save(w.folder / "s.vts"),
            "an unknown axis": lambda w: w.surface.cross_section("z"),
            "rise without a centre": lambda w: gv.Surface(np.array([1.0, 2.0]), None, np.zeros(2)).rise(),
            "curvature, radius 0": lambda w: w.surface.curvature(0.0),
            "curvature, radius NaN": lambda w: w.surface.curvature(nan),
        },
        "proposed_extent": {
            "no batches": lambda w: gv.proposed_extent(w.model, [], w.d),
            "a direction of another model": lambda w: gv.proposed_extent(w.model, w.batches, w.other_d),
            **{f"rise {x}": lambda w, x=x: gv.proposed_extent(w.model, w.batches, w.d, rise=x) for x in (0, -1.0, nan)},
        },
        "loss_line": {
            **{f"points {n!r}": lambda w, n=n: gv.loss_line(w.model, w.model, w.batches, n) for n in (2, 2.5, True)},
            "beyond -1": lambda w: gv.loss_line(w.model, w.model, w.batches, beyond=-1),
            "another model": lambda w: gv.loss_line(w.model, w.other, w.batches),
        },
        "project_trajectory": {
            "one direction": lambda w: gv.project_trajectory(w.model, [w.model], [w.d]),
            "parallel directions": lambda w: gv.project_trajectory(w.model, [w.model], [w.d, w.d]),
            "no checkpoints": lambda w: gv.project_trajectory(w.model, [], [w.d, w.e]),
            "one checkpoint, not a list": lambda w: gv.project_trajectory(w.model, w.model, [w.d, w.e]),
            "a number": lambda w: gv.project_trajectory(w.model, [3], [w.d, w.e]),
        },
        "trajectory_directions": {
            "no checkpoints": lambda w: gv.trajectory_directions(w.model, []),
            "the model itself": lambda w: gv.trajectory_directions(w.model, [w.model, w.model]),
        },
        "hessian_spectrum": {
            **{what: lambda w, c=c: c(gv.hessian_spectrum) for what, c in hessian.items()},
            **{
                f"k = {k!r}": lambda w, k=k: gv.hessian_spectrum(w.model, w.batches, k, **quiet)
                for k in (0, -1, 1.5, 10**9)
            },
            "an unknown end": lambda w: gv.hessian_spectrum(w.model, w.batches, which="top", **quiet),
            "a negative tolerance": lambda w: gv.hessian_spectrum(w.model, w.batches, tolerance=-1.0, **quiet),
        },
        "Hessian": {
            "no model": lambda w: gv.Hessian("x", w.batches),
            "no batches": lambda w: gv.Hessian(w.model, []),
        },
        "hessian_trace": {
            **{what: lambda w, c=c: c(gv.hessian_trace) for what, c in hessian.items()},
            **{f"{n!r} probes": lambda w, n=n: gv.hessian_trace(w.model, w.batches, n, **quiet) for n in (0, -1, 1.5)},
        },
        "sequence_curvature": {
            **{what: lambda w, c=c: c(gv.sequence_curvature) for what, c in hessian.items()},
            **{
                f"{n!r} probes": lambda w, n=n: gv.sequence_curvature(w.model, w.batches, n, **quiet)
                for n in (0, -1, 1.5)
            },
        },
        "hessian_density": {
            **{what: lambda w, c=c: c(gv.hessian_density) for what, c in hessian.items()},
            "no probes": lambda w: gv.hessian_density(w.model, w.batches, n_probes=0, **quiet),
            "no steps": lambda w: gv.hessian_density(w.model, w.batches, n_steps=0, **quiet),
        },
        "dropout_sites": {
            "no model": lambda w: gv.dropout_sites("bert"),
            "a batch that does not fit": lambda w: gv.dropout_sites(w.model, batch={"nothing": torch.ones(1)}),
            "a plain model without a batch": lambda w: gv.dropout_sites(w.plain),
        },
        "measured_dropout": {
            "no model": lambda w: gv.measured_dropout(3),
            "a batch that does not fit": lambda w: gv.measured_dropout(w.model, {"nothing": torch.ones(1)}),
        },
        "guided_dropout": {
            "no model": lambda w: gv.guided_dropout("x", w.fisher),
            "no Fisher": lambda w: gv.guided_dropout(w.model, {"a": 1.0}),
            "another model's Fisher": lambda w: gv.guided_dropout(w.model, gv.Fisher.from_means({"x.weight": 1.0})),
            "reversed bounds": lambda w: gv.guided_dropout(w.model, w.fisher, 0.2, 0.1),
            **{f"upper {x!r}": lambda w, x=x: gv.guided_dropout(w.model, w.fisher, 0.0, x) for x in (1, 1.5, nan, "x")},
            **{f"lower {x!r}": lambda w, x=x: gv.guided_dropout(w.model, w.fisher, x) for x in (-0.1, nan, None, True)},
            "an unknown scale": lambda w: gv.guided_dropout(w.model, w.fisher, scale="linear"),
            "an unknown weighting": lambda w: gv.guided_dropout(w.model, w.fisher, weighting="none"),
            "a model without dropout": lambda w: gv.guided_dropout(
                w.plain, gv.Fisher.from_means({"weight": 1.0}), batch={"input": torch.ones(1, 3)}
            ),
        },
        "uniform_dropout": {
            **{f"rate {x!r}": lambda w, x=x: gv.uniform_dropout(w.model, x) for x in (-0.1, 1, 1.5, nan, "x", None)},
            "a model without dropout": lambda w: gv.uniform_dropout(w.plain, 0.1, batch={"input": torch.ones(1, 3)}),
        },
        "DropoutSchedule": {
            "no rates": lambda w: gv.DropoutSchedule({}),
            "a rate of 1": lambda w: gv.DropoutSchedule({"a": 1.0}),
            "a rate of text": lambda w: gv.DropoutSchedule({"a": "0.1"}),
            "another model": lambda w: w.other_schedule.apply(w.model),
            "applied to another model": lambda w: _enter(w.other_schedule.applied(w.model)),
            "applied to a model without dropout": lambda w: w.schedule.apply(w.plain),
            "reversed without an order": lambda w: w.schedule.matched_uniform().reversed(),
            "rescaled without an order": lambda w: w.schedule.matched_uniform().rescaled(upper=0.2),
            "rescaled to reversed bounds": lambda w: w.schedule.rescaled(lower=0.3, upper=0.2),
            "no file": lambda w: gv.DropoutSchedule.load(w.folder / "none"),
            "a folder": lambda w: gv.DropoutSchedule.load(w.folder),
        },
        "gaussian_dropout": {
            **{f"rate {x!r}": lambda w, x=x: gv.gaussian_dropout(w.model, x) for x in (-0.1, 1.0, nan, "x")},
            "another model's schedule": lambda w: gv.gaussian_dropout(w.model, w.other_schedule),
            "no model": lambda w: gv.gaussian_dropout(3, 0.1),
        },
        "load_task": {
            "a number": lambda w: gv.load_task(3),
            "an unknown name": lambda w: gv.load_task("sentimental"),
            "an unknown GLUE task": lambda w: gv.load_task("glue/none"),
            "no such file": lambda w: gv.load_task("./nowhere.csv"),
            "an empty file": lambda w: gv.load_task(w.folder / "empty.csv"),
            "one class": lambda w: gv.load_task(w.folder / "numbers.csv"),
            "gaps": lambda w: gv.load_task(w.folder / "gaps.csv"),
            "no such column": lambda w: gv.load_task(w.folder / "numbers.csv", label="score"),
            "an unknown resplit": lambda w: gv.load_task("sentiment", resplit="new"),
            "columns of a bundled task": lambda w: gv.load_task("sentiment", text="review"),
            "a revision of a bundled task": lambda w: gv.load_task("sentiment", revision="main"),
        },
        "Task": {
            "an unknown kind": lambda w: replace(w.task, kind="ranking"),
            "an unknown metric": lambda w: replace(w.task, metrics=("bleu",)),
            "no metric": lambda w: replace(w.task, metrics=()),
            "labels out of range": lambda w: replace(w.task, n_labels=1),
            "no rows": lambda w: replace(w.task, train=w.task.train.select([])),
            "no label column": lambda w: replace(w.task, train=w.task.train.remove_columns("label")),
            **{f"fraction {x!r}": lambda w, x=x: w.task.fraction(x) for x in (0, -1, 1.5, nan, 1e-9)},
            **{f"subset of {n!r}": lambda w, n=n: w.task.subset(n_train=n) for n in (0, -1, 10**6, 2.5)},
            "NaN predictions": lambda w: w.task.compute_metrics([nan, 1.0], [0, 1]),
            "too few predictions": lambda w: w.task.compute_metrics([1], [0, 1]),
        },
        "compare": {
            "a model for lm": lambda w: gv.compare(w.model, w.task, {"a": 0.1}, **quiet),
            "text for a task": lambda w: compare(task="sentiment"),
            "no arms": lambda w: compare(arms={}),
            "a list of arms": lambda w: compare(arms=[0.1]),
            "an arm of text": lambda w: compare(arms={"a": "0.1"}),
            "an arm's rate of 1": lambda w: compare(arms={"a": 1.0}),
            "another model's schedule": lambda w: compare(arms={"a": w.other_schedule}),
            "a number for an arm's name": lambda w: compare(arms={3: 0.1}),
            **{
                f"fractions {x!r}": lambda w, x=x: compare(fractions=x) for x in ([], [0.0], [1.5], ["all"], [0.5, 0.5])
            },
            "a fraction without a class": lambda w: compare(fractions=[0.04]),
            **{f"seeds {x!r}": lambda w, x=x: compare(seeds=x) for x in ([], [-1], [0, 0], ["a"], [0.5])},
            **{f"epochs {x!r}": lambda w, x=x: compare(epochs=x) for x in (0, -1, 1.5)},
            **{f"learning rate {x!r}": lambda w, x=x: compare(learning_rate=x) for x in (0.0, -1.0, nan)},
            **{f"batch size {x!r}": lambda w, x=x: compare(batch_size=x) for x in (0, -1, 2.5)},
            "an unknown setting": lambda w: compare(optimizer="sgd"),
            "threads 0": lambda w: compare(threads=0),
            "a file for a folder": lambda w: compare(path=w.folder / "numbers.csv"),
            "no executor": lambda w: compare(executor="pool"),
        },
        "fine_tune": {
            "a model for lm": lambda w: tune(lm=w.model),
            "an arm of text": lambda w: tune(arm="much"),
            "fraction 0": lambda w: tune(fraction=0),
            "epochs 0": lambda w: tune(epochs=0),
            "a seed of text": lambda w: tune(seed="x"),
        },
        "Comparison": {
            "an unknown metric": lambda w: w.comparison.summary("bleu"),
            "an unknown arm": lambda w: w.comparison.paired("a", "z"),
            "an arm with itself": lambda w: w.comparison.paired("a", "a"),
            "an unknown split": lambda w: w.comparison.history(split="test"),
            "no file": lambda w: gv.Comparison.load(w.folder / "none"),
            "an empty folder": lambda w: gv.Comparison.load(w.folder / "void"),
        },
        "completions": {
            "a model for lm": lambda w: gv.completions(w.model, "a {} cat"),
            "no blank": lambda w: gv.completions(w.lm, "a cat"),
            "two blanks": lambda w: gv.completions(w.lm, "a {} {}"),
            "a number for text": lambda w: gv.completions(w.lm, 3),
            "n = 0": lambda w: gv.completions(w.lm, "a {} cat", n=0),
        },
        "measure_landscape": {
            "a model for lm": lambda w: gv.measure_landscape(w.model, w.folder / "m", work=w.folder / "w"),
        },
        "LandscapeFindings": {
            "an empty folder": lambda w: gv.LandscapeFindings.load(w.folder / "void"),
        },
        "plots.landscape_rises": {"text": lambda w: gv.plots.landscape_rises("x")},
        "plots.fisher_beside_hessian": {"text": lambda w: gv.plots.fisher_beside_hessian("x")},
        "GaussianArm": {f"rate {x!r}": lambda w, x=x: gv.GaussianArm(x) for x in (-0.1, 1.0, "x", nan)},
        "WeightDecayArm": {f"decay {x!r}": lambda w, x=x: gv.WeightDecayArm(x) for x in (-0.1, "x", nan, inf)},
        "EWCArm": {
            "no Fisher": lambda w: gv.EWCArm({"a": 1.0}, 1.0),
            **{f"strength {x!r}": lambda w, x=x: gv.EWCArm(w.fisher, x) for x in (-0.1, "x", nan, inf)},
        },
        "FrozenArm": {"no selection": lambda w: gv.FrozenArm(0.01)},
        "SparseArm": {"a Fisher": lambda w: gv.SparseArm(w.fisher)},
        "MixoutArm": {f"rate {x!r}": lambda w, x=x: gv.MixoutArm(x) for x in (-0.1, 1.0, "x", nan)},
        "WordsExplorer": {
            "a model for lm": lambda w: gv.WordsExplorer(w.model, w.fisher),
            "no Fisher": lambda w: gv.WordsExplorer(w.lm, None),
        },
        "FisherExplorer": {
            "nothing": lambda w: gv.FisherExplorer({}),
            "text": lambda w: gv.FisherExplorer("fisher"),
        },
        "LandscapeExplorer": {
            "a model for lm": lambda w: gv.LandscapeExplorer(w.model, w.fisher, w.batches, path=w.folder / "x"),
            "no Fisher": lambda w: gv.LandscapeExplorer(w.lm, None, w.batches, path=w.folder / "x"),
        },
        "DropoutLab": {
            "reversed bounds": lambda w: gv.DropoutLab(w.lm, w.task, w.fisher, lower=0.2, upper=0.1),
            "a rate of 1": lambda w: gv.DropoutLab(w.lm, w.task, w.fisher, upper=1.0),
            "no arms": lambda w: gv.DropoutLab(w.lm, w.task, w.fisher, arms=()),
            "an unknown arm": lambda w: gv.DropoutLab(w.lm, w.task, w.fisher, arms=("best",)),
            "no seeds": lambda w: gv.DropoutLab(w.lm, w.task, w.fisher, n_seeds=0),
            "another model's Fisher": lambda w: gv.DropoutLab(w.lm, w.task, gv.Fisher.from_means({"x.weight": 1.0})),
        },
        "plots.fisher_profile": {
            "text": lambda w: gv.plots.fisher_profile("x"),
            "an unknown grouping": lambda w: gv.plots.fisher_profile(w.fisher, by="token"),
            "an unknown measure": lambda w: gv.plots.fisher_profile(w.fisher, measure="median"),
            "nothing": lambda w: gv.plots.fisher_profile({}),
        },
        "plots.fisher_heatmap": {
            "text": lambda w: gv.plots.fisher_heatmap("x"),
            "an unknown measure": lambda w: gv.plots.fisher_heatmap(w.fisher, measure="median"),
        },
        "plots.fisher_concentration": {
            "text": lambda w: gv.plots.fisher_concentration("x"),
            "at 2": lambda w: gv.plots.fisher_concentration(w.fisher, at=2.0),
        },
        "plots.surface_contour": {
            "text": lambda w: gv.plots.surface_contour("x"),
        },
        "plots.surface_3d": {
            "text": lambda w: gv.plots.surface_3d("x"),
            "a line": lambda w: gv.plots.surface_3d(w.line),
        },
        "plots.compare_surfaces": {
            "nothing": lambda w: gv.plots.compare_surfaces({}),
            "an unknown kind": lambda w: gv.plots.compare_surfaces({"a": w.surface}, kind="globe"),
        },
        "plots.surface_section": {
            "text": lambda w: gv.plots.surface_section("x"),
            "an unknown axis": lambda w: gv.plots.surface_section(w.surface, axis="z"),
        },
        "plots.surface_radial": {"text": lambda w: gv.plots.surface_radial("x")},
        "plots.spectral_density": {"text": lambda w: gv.plots.spectral_density("x")},
        "plots.dropout_rates": {
            "text": lambda w: gv.plots.dropout_rates("x"),
            "nothing": lambda w: gv.plots.dropout_rates({}),
        },
        "plots.comparison": {
            "text": lambda w: gv.plots.comparison("x"),
            "an unknown metric": lambda w: gv.plots.comparison(w.comparison, "bleu"),
        },
        "plots.paired_differences": {
            "an unknown baseline": lambda w: gv.plots.paired_differences(w.comparison, baseline="z"),
        },
        "plots.training_curves": {
            "an unknown split": lambda w: gv.plots.training_curves(w.comparison, split="test"),
        },
    }


def covered() -> set[str]:
    """The public functions, classes and methods in the table."""
    return set(table(world()))


def trial(name: str, what: str) -> dict[str, Any]:
    """Make one bad call; raises AssertionError if it is not refused as it should be."""
    w = world()
    call = table(w)[name][what]
    before = snapshot(w.model, w.other)
    start = time.process_time()
    try:
        call(w)
    except DOCUMENTED as error:
        text = str(error)
    except BaseException as error:
        raise AssertionError(f"raised {type(error).__name__}: {str(error)[:200]}") from error
    else:
        raise AssertionError("was accepted without a word")
    spent = time.process_time() - start
    changed = differences(before, snapshot(w.model, w.other))
    assert not changed, f"changed {', '.join(changed)}"
    assert text.strip(), "has an error without a text"
    assert "\n" not in text.strip(), f"has an error of several lines: {text!r}"
    assert spent < SECONDS, f"took {spent:.1f} s before it was refused"
    return {"seconds": round(spent, 3), "says": text[:160]}


def campaign(book: Book) -> None:
    """Every call of the table."""
    for name, calls in table(world()).items():
        for what in calls:
            book.do(f"{name}: {what}", lambda name=name, what=what: trial(name, what))


def _enter(context: Any) -> None:
    with context:
        pass


def _without_mask() -> Any:
    tokenizer = word_tokenizer()
    tokenizer.mask_token = None
    return tokenizer
