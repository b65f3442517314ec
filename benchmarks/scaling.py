"""Growth of cost with text, length, width, depth, vocabulary, points and workers; an estimate for a 7B model.

    python benchmarks/scaling.py                 # measures, fits, writes results/scaling.csv, .json, .png
    python benchmarks/scaling.py --only workers  # measures comparisons anew, keeps the rest
    python benchmarks/scaling.py --fit-only      # fits and draws what results/scaling.csv holds

Each measurement is a process of its own (forked after the imports): CPU seconds of one thread, user + system, and how
far its peak memory rises above what it began with. The measurements take turns for several rounds, so that a busy
machine disturbs all alike. An exponent is the slope of log cost on log size with its 95 % interval (Student, over all
rounds); it belongs to the range measured: where a fixed cost is still seen, the slope lies below its limit.

The cost of Fisher information is also fitted as one model over all its measurements,
    seconds = sequences * (a * multiply-adds of forward and backward + b * parameters) + c * batches * (1 + layers),
with a in units of this machine's own matrix product, b in units of its own memory traffic, and c the price of calls,
which large models do not see. In these units it can be carried to another machine, whose peak rates are then
assumptions; they are printed as such.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.optimize import nnls

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gdrop_viz as gv

RESULTS = Path(__file__).parent / "results"
BASE = {"sequences": 16, "length": 64, "width": 128, "depth": 4, "vocabulary": 4096}
FILE = RESULTS / "scaling.csv"
SWEEPS = {
    "sequences": [8, 16, 32, 64],
    "length": [32, 64, 128, 256],
    "width": [64, 128, 256, 384],
    "depth": [2, 4, 8, 16],
    "vocabulary": [1024, 4096, 16384, 32768],
}
POINTS = [3, 5, 7]  # per axis
WORKERS = [1, 2]
COLUMNS = ["what", "varied", "value", "round", "cpu seconds", "MiB", "wall seconds"]
BATCH = 8
PREDICTED = 0.15


def the_model(width: int, depth: int, vocabulary: int, length: int, **_: int) -> torch.nn.Module:
    """A BERT with a masked-language head: heads of 64, feed-forward of 4 x width."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 64,
            intermediate_size=4 * width, max_position_embeddings=max(512, length),
        )
    ).eval()  # fmt: skip


def the_text(sequences: int, length: int, vocabulary: int, **_: int) -> list[dict[str, torch.Tensor]]:
    """Random tokens; 15 % predicted."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for start in range(0, sequences, BATCH):
        ids = torch.randint(5, vocabulary, (min(BATCH, sequences - start), length), generator=generator)
        labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) >= PREDICTED, -100)
        labels[:, 0] = ids[:, 0]
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return batches


# -- measuring ---------------------------------------------------------------------------------------------------------


def fisher(resolution: str, **size: int) -> Callable[[], Any]:
    model, batches = the_model(**size), the_text(**size)
    # hooks: the self-check of "auto" is a fixed cost that a long run does not see
    return lambda: gv.fisher_information(model, batches, resolution=resolution, method="batched", progress=False)


def surface(points: int) -> Callable[[], Any]:
    size = {**BASE, "sequences": 4, "width": 64}
    model, batches = the_model(**size), the_text(**size)
    plane = [gv.random_direction(model, seed=seed) for seed in (0, 1)]
    return lambda: gv.loss_surface(model, batches, plane, points=points, progress=False)


def product() -> Callable[[], Any]:
    """Matrix products: 2 * 512^3 multiply-adds of float32, 20 times."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return lambda: [a @ b for _ in range(20)]


def traffic() -> Callable[[], Any]:
    """F += G * G on 16 million float32: two reads and a write of each, 5 times."""
    total, gradient = torch.zeros(1 << 24), torch.randn(1 << 24)
    return lambda: [total.addcmul_(gradient, gradient) for _ in range(5)]


WORK = {"fisher": fisher, "surface": surface, "product": product, "traffic": traffic}


def _measured(connection: Any, work: str, settings: dict[str, Any]) -> None:
    run = WORK[work](**settings)
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.process_time()
    run()
    seconds = time.process_time() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    connection.send((seconds, (after.ru_maxrss - before.ru_maxrss) / 1024))


def measure(work: str, settings: dict[str, Any]) -> tuple[float, float]:
    """CPU seconds and MiB of one piece of work, in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(there, work, settings))
    process.start()
    there.close()
    result = here.recv()
    process.join()
    return result


def comparison(workers: int) -> tuple[float, float, float]:
    """Eight fine-tuning runs of bert-mini over `workers` processes.

    CPU seconds of all processes, wall seconds until the workers have imported what they need, and wall seconds of
    the comparison itself.
    """
    lm, task = gv.load_pretrained("bert-mini"), gv.load_task("sentiment").subset(n_train=160, n_validation=160)
    settings = {"seeds": range(8), "epochs": 1, "threads": 1, "progress": False}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_ready, range(workers)))
        started = time.monotonic()
        gv.compare(lm, task, {"standard": 0.1}, executor=pool, **settings)
        ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, started - began, ended - started


def _ready(_: int) -> None:
    import gdrop_viz.finetuning.trainer  # noqa: F401

    time.sleep(1)  # so that each worker gets one of these calls


def comparisons(rounds: int) -> pd.DataFrame:
    """One row per number of workers and round; see `comparison`."""
    rows = []
    for number in range(rounds):
        for workers in WORKERS:
            cpu, start, wall = comparison(workers)
            rows.append(("comparison", "workers", workers, number, cpu, math.nan, wall))
            rows.append(("start of workers", "workers", workers, number, math.nan, math.nan, start))
            print(f"round {number}: comparison, {workers} worker(s): {cpu:.1f} s CPU, {start:.1f} + {wall:.1f} s wall")
    return pd.DataFrame(rows, columns=COLUMNS)


def measurements(rounds: int) -> Iterator[pd.DataFrame]:
    """Yield, after each round, one row per measurement so far: what, size varied, value, round, CPU seconds, MiB."""
    jobs: list[tuple[str, str, float, dict[str, Any]]] = [("product", "", 0, {}), ("traffic", "", 0, {})]
    for resolution in ("element", "tensor"):
        for varied, values in SWEEPS.items():
            jobs += [
                (f"fisher {resolution}", varied, value, {"resolution": resolution, **BASE, varied: value})
                for value in values
            ]
    jobs += [("surface", "points", points**2, {"points": points}) for points in POINTS]
    rows = []
    for number in range(rounds):
        for what, varied, value, settings in jobs:
            seconds, mebibytes = measure(what.split()[0], settings)
            rows.append((what, varied, value, number, seconds, mebibytes, math.nan))
            print(f"round {number}: {what} {varied} {value}: {seconds:.3f} s CPU, {mebibytes:.0f} MiB", flush=True)
        yield pd.DataFrame(rows, columns=COLUMNS)


def read_table() -> pd.DataFrame:
    """What was measured: the columns COLUMNS."""
    return pd.read_csv(FILE, keep_default_na=False, na_values=["", "nan"]).fillna({"varied": ""})


def write_table(*parts: pd.DataFrame) -> None:
    """Write the parts that are not empty."""
    pd.concat([part for part in parts if len(part)]).round(4).to_csv(FILE, index=False)


# -- fitting -----------------------------------------------------------------------------------------------------------


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Slope of log cost on log size with the half-width of its 95 % interval, per curve."""
    rows = []
    for (what, varied), part in table[table["varied"] != ""].groupby(["what", "varied"], sort=False):
        for measure_of in ("cpu seconds", "MiB"):
            cost = part[measure_of]
            if varied == "workers" or not (cost > 0).all() or (measure_of == "MiB" and what == "surface"):
                continue
            fit = stats.linregress(np.log(part["value"]), np.log(cost))
            half = fit.stderr * stats.t.ppf(0.975, len(part) - 2) if len(part) > 2 else math.nan
            rows.append((what, varied, measure_of, fit.slope, half, len(part)))
    return pd.DataFrame(rows, columns=["what", "grows with", "cost", "exponent", "± 95 %", "measurements"])


def operations(size: dict[str, float], resolution: str) -> tuple[float, float]:
    """Multiply-adds of a sequence and its parameters: forward, backward, and at element resolution G = gᵀa.

    Blocks hold 12 width² parameters a layer; attention adds 2 length * width per token and layer. The head works at
    the predicted positions only.
    """
    length, width, depth, vocabulary = (size[name] for name in ("length", "width", "depth", "vocabulary"))
    block, table = 12 * width**2 * depth, vocabulary * width
    forward = length * (block + 2 * length * width * depth) + PREDICTED * length * (table + width**2)
    passes = 3 if resolution == "element" else 2
    return passes * forward, block + table


def cost_model(table: pd.DataFrame, resolution: str) -> dict[str, float]:
    """Fit a, b and c (seconds per multiply-add, parameter, call) by non-negative least squares on relative errors."""
    part = table[table["what"] == f"fisher {resolution}"]
    rows, seconds = [], []
    for line in part.itertuples(index=False):
        size = {**BASE, line.varied: line.value}
        work, parameters = operations(size, resolution)
        calls = math.ceil(size["sequences"] / BATCH) * (1 + size["depth"])
        rows.append([size["sequences"] * work, size["sequences"] * parameters, calls])
        seconds.append(line[4])
    design, cost = np.array(rows), np.array(seconds)
    fitted, _ = nnls(design / cost[:, None], np.ones(len(cost)))
    error = np.abs(design @ fitted / cost - 1)
    return {
        **dict(zip("abc", fitted.tolist(), strict=True)),
        "median error": float(np.median(error)),
        "largest error": float(error.max()),
    }


def extrapolation(table: pd.DataFrame) -> dict[str, Any]:
    """A 7B model on 8 GPUs: hours and memory, from the measured model and the GPU's assumed rates."""
    unit = table.groupby("what")["cpu seconds"].median()
    rate = 20 * 512**3 / unit["product"]  # multiply-adds a second
    bandwidth = 5 * 3 * 4 * (1 << 24) / unit["traffic"]  # bytes a second
    assumed = {
        "parameters": 6.7e9, "width": 4096, "depth": 32, "vocabulary": 32000, "length": 512, "sequences": 10_000,
        "GPUs": 8, "multiply-adds a second": 0.4 * 989e12 / 2, "bytes a second": 0.6 * 3.35e12,
    }  # fmt: skip
    found: dict[str, Any] = {
        "assumed": assumed,
        "this machine": {"multiply-adds a second": rate, "bytes a second": bandwidth},
    }
    size = {name: assumed[name] for name in ("width", "depth", "vocabulary", "length")}
    for resolution in ("element", "tensor"):
        fit = cost_model(table, resolution)
        work, _ = operations(size, resolution)
        products = fit["a"] * rate  # this machine's products needed per counted multiply-add
        bytes_each = fit["b"] * bandwidth  # bytes moved per parameter and sequence
        seconds = products * work / assumed["multiply-adds a second"]
        seconds += bytes_each * assumed["parameters"] / assumed["bytes a second"]
        hours = seconds * assumed["sequences"] / assumed["GPUs"] / 3600
        largest = assumed["vocabulary"] * assumed["width"]
        activations = 34 * assumed["length"] * assumed["width"] * assumed["depth"] * 2  # bf16, one sequence
        memory = 2 * assumed["parameters"] + activations
        if resolution == "element":
            memory += 4 * assumed["parameters"] + 2 * 4 * largest  # sums, and one gradient with its square
        found[resolution] = {
            **fit, "products per counted multiply-add": products, "bytes per parameter and sequence": bytes_each,
            "hours": hours, "hours if the model is off by 3": 3 * hours, "GiB per GPU, one sequence": memory / 2**30,
        }  # fmt: skip
    return found


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw(table: pd.DataFrame, fits: pd.DataFrame, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(2, 4, figsize=(15, 7), layout="constrained")
    panels = [(varied, "cpu seconds") for varied in SWEEPS] + [("vocabulary", "MiB"), ("points", "cpu seconds")]
    for ax, (varied, measure_of) in zip(axes.flat, [*panels, ("workers", "wall seconds")], strict=True):
        for (what, marker), line in zip((("fisher element", "o"), ("fisher tensor", "s")), ("-", "--"), strict=True):
            if varied not in SWEEPS:
                break
            _curve(ax, table, fits, what, varied, measure_of, marker, line)
        if varied == "points":
            _curve(ax, table, fits, "surface", varied, measure_of, "o", "-")
        if varied == "workers":
            for what, marker, line in (("comparison", "o", "-"), ("start of workers", "s", "--")):
                _curve(ax, table, fits, what, varied, "wall seconds", marker, line)
            ax.set(xticks=WORKERS, ylim=(0, None))
        else:
            ax.set(xscale="log", yscale="log")
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            ax.minorticks_off()
            values = sorted(table.loc[table["varied"] == varied, "value"].unique())
            ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.set(xlabel=f"{varied} of a surface" if varied == "points" else varied)
        ax.set(
            ylabel={"MiB": "MiB above the start", "cpu seconds": "CPU seconds", "wall seconds": "seconds"}[measure_of]
        )
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle("Cost of Fisher information, surfaces and comparisons, with fitted exponents (95 %)")
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def _curve(ax: Any, table: Any, fits: Any, what: str, varied: str, measure_of: str, marker: str, line: str) -> None:
    part = table[(table["what"] == what) & (table["varied"] == varied)]
    middle = part.groupby("value")[measure_of].median()
    fit = fits[(fits["what"] == what) & (fits["grows with"] == varied) & (fits["cost"] == measure_of)]
    label = what if fit.empty else f"{what}: {fit['exponent'].iloc[0]:.2f} ± {fit['± 95 %'].iloc[0]:.2f}"
    (drawn,) = ax.plot(middle.index, middle, line, marker=marker, label=label)
    ax.plot(part["value"], part[measure_of], marker, color=drawn.get_color(), markersize=3, alpha=0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="the table is written after each")
    parser.add_argument("--only", choices=["growth", "workers"], help="keep the table's other rows as they are")
    parser.add_argument("--fit-only", action="store_true", help="no new measurements")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    known = read_table() if FILE.is_file() else pd.DataFrame(columns=COLUMNS)
    growth, workers = known[known["varied"] != "workers"], known[known["varied"] == "workers"]
    if not options.fit_only and options.only != "workers":
        fisher("tensor", **{**BASE, "sequences": 2})()  # imports, before the forks
        for growth in measurements(options.rounds):
            write_table(growth, workers)
    if not options.fit_only and options.only != "growth":
        write_table(growth, comparisons(options.rounds))
    table = read_table()
    fits = exponents(table)
    print(fits.to_string(index=False, float_format="{:.2f}".format))
    found = extrapolation(table)
    print(json.dumps(found, indent=1))
    (RESULTS / "scaling.json").write_text(
        json.dumps({"exponents": fits.round(3).to_dict("records"), "7B on 8 GPUs": found}, indent=1), encoding="utf-8"
    )
    draw(table, fits, RESULTS / "scaling.png")


if __name__ == "__main__":
    main()
