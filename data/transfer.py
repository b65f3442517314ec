"""The worth of pretraining on the labelled tasks: fine-tunes each bundled model and its untrained twin.

    python data/transfer.py --bf16                        # every model and task, pools of 1,000 sentences
    python data/transfer.py bert-mini --tasks sentiment --sentences all --fractions 1.0 --bf16
    python data/describe.py                               # writes the table into data/README.md

The twin has the same configuration and tokenizer and weights drawn anew for each seed; pool, training subset, order of
batches and head are the same for both. Finished runs are kept in `build/transfer` and never repeated, so Ctrl-C costs
one run. The scores go to `data/transfer.csv`, beside those of earlier calls.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
from build_corpus import ROOT, WORK
from recipes import RECIPES

import gdrop_viz as gv

MODELS, TASKS, STARTS = tuple(RECIPES), ("sentiment", "rating", "acceptability"), ("pretrained", "random")
TABLE = ROOT / "data" / "transfer.csv"
KEY = ["model", "task", "n_train", "start", "metric", "seed"]
VALIDATION = 1000
"""Validation sentences: enough for a standard error of 1.4 points, and few enough to keep the runs short."""


def untrained(lm: gv.Pretrained, *, seed: int) -> gv.Pretrained:
    """Return `lm` with all its weights drawn anew."""
    torch.manual_seed(seed)
    model = RECIPES[lm.name].auto.from_config(lm.model.config, dtype=torch.float32)
    return replace(lm, model=model.eval(), name=f"{lm.name}, untrained")


def measure(
    name: str,
    task_name: str,
    *,
    starts: list[str],
    sentences: int | None,
    fractions: list[float],
    seed: int,
    bf16: bool,
) -> pd.DataFrame:
    """Fine-tune one model on one task and return one row per start and share of the data."""
    lm, task = gv.load_pretrained(name), gv.load_task(task_name)
    pool = task.subset(n_train=sentences, n_validation=VALIDATION)
    arguments = {"bf16": True, "use_cpu": not torch.cuda.is_available()} if bf16 else {}
    path = WORK / "transfer" / f"{name}-{task_name}"
    settings = {"seeds": [seed], "path": path, "evaluate": "end", "training_arguments": arguments}
    tables = []
    for start in starts:
        model = lm if start == "pretrained" else untrained(lm, seed=seed)
        result = gv.compare(model, pool, {start: 0.1}, fractions=fractions, progress=False, **settings)
        scores = result.scores().rename(columns={"arm": "start"})
        tables.append(scores.assign(n_train=(scores.pop("fraction") * len(pool.train)).round().astype(int)))
    return pd.concat(tables).assign(model=name, task=task_name, metric=task.metrics[0])


def keep(rows: pd.DataFrame) -> None:
    """Add rows to the table, in place of older ones of the same runs."""
    old = [pd.read_csv(TABLE)] if TABLE.is_file() else []
    table = pd.concat([*old, rows]).drop_duplicates(KEY, keep="last").sort_values(KEY)[[*KEY, "value"]]
    temporary = TABLE.with_suffix(".tmp")
    table.round({"value": 5}).to_csv(temporary, index=False)
    temporary.replace(TABLE)


def number_or_all(text: str) -> int | None:
    """Read a number of sentences; "all" is None."""
    return None if text == "all" else int(text)


def main() -> None:
    """Run what is asked for, seed by seed, so that after a stop every model has about as many seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--sentences", type=number_or_all, default=1000, help='size of the pool, or "all"')
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="to add to what the table holds already")
    parser.add_argument("--bf16", action="store_true", help="mixed precision, in about two thirds of the time")
    options = parser.parse_args()
    runs = {key: getattr(options, key) for key in ("starts", "sentences", "fractions", "bf16")}
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"expected models among {', '.join(MODELS)}, got {', '.join(sorted(unknown))}")
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.models or MODELS:
            for task in options.tasks:
                rows = measure(name, task, seed=seed, **runs)
                keep(rows)
                print(rows.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    main()
