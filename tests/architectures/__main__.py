"""The sweep's command: tries every pair that has not been tried, then writes `docs/architectures.md`.

python -m tests.architectures [--only bert] [--anew] [--seconds 120]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path

from tests.architectures.shrunken import Pair, pairs
from tests.architectures.table import PAGE, written
from tests.architectures.trials import trial

RESULTS = Path("build/architectures.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.architectures", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="types that contain this word")
    parser.add_argument("--anew", action="store_true", help="forget what was tried before")
    parser.add_argument("--seconds", type=int, default=120, help="CPU time of one pair")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.anew:
        options.results.unlink(missing_ok=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["type"], row["task"]) for row in read(options.results)}
    for pair in pairs():
        if (pair.kind, pair.task) in done or (options.only and options.only not in pair.kind):
            continue
        start = time.monotonic()
        found = apart(pair, options.seconds)
        row = {"type": pair.kind, "task": pair.task, **found, "seconds": round(time.monotonic() - start, 1)}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(" | ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
    if not options.only:
        PAGE.write_text(written(read(options.results), len(pairs())), encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    """The rows that a sweep has written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def apart(pair: Pair, seconds: int) -> dict[str, str]:
    """The outcome of a pair's trial in a process of its own, which may crash, hang or use up its time."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(pair, seconds, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv() if mine.poll(20 * seconds) else {"built": "no: out of time"}
    except EOFError:
        return {"built": f"no: out of {seconds} s of CPU time, or it crashed"}
    finally:
        process.kill()
        process.join()


def _child(pair: Pair, seconds: int, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    try:
        answer.send(trial(pair))
    except Exception as error:
        answer.send({"built": f"no: {type(error).__name__}: {' '.join(str(error).split())[:160]}"})


def _load() -> None:
    """Import once what every child needs; nothing is computed before they part, which torch's autograd forbids."""
    import scipy.stats
    import sklearn.metrics
    import torch
    import transformers

    import gdrop_viz as gv

    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loaded = (scipy.stats, sklearn.metrics, transformers.BertForMaskedLM, transformers.GPT2LMHeadModel)
    names = "fisher_information dropout_sites guided_dropout loss_surface hessian_trace random_direction".split()
    assert all((*loaded, *(getattr(gv, name) for name in names)))


if __name__ == "__main__":
    _load()
    main()
