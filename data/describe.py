"""The figures and checksums of `data/README.md`: writes them there, and into `data/checksums.json`.

    python data/describe.py

reads `data/models/*/training.json` and `held_out.json` (made by `data/pretrain.py`) and `data/transfer.csv` (made by
`data/transfer.py`), and hashes every shipped file of `data/models` and `data/corpus` and every table of `data/tasks`
(which have a page of their own).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
from build_corpus import ROOT
from held_out import HeldOut, table

from gdrop_viz.base.intervals import Interval, student_interval
from gdrop_viz.finetuning.statistics import PairedTest, paired_test

DATA = ROOT / "data"
START, END = "<!-- {}: written by describe.py -->", "<!-- end of {} -->"


def checksums() -> dict[str, str]:
    """Return the sha256 of every shipped file of models and corpus and of the tasks' tables, by path in `data/`."""
    files = sorted(path for folder in ("models", "corpus") for path in (DATA / folder).rglob("*") if path.is_file())
    files += sorted((DATA / "tasks").glob("*.csv"))
    return {path.relative_to(DATA).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def facts_of(folder: Path) -> str:
    """Return one model's section: what it is, how it was trained, how well it predicts."""
    facts = json.loads((folder / "training.json").read_text())
    measured = json.loads((folder / "held_out.json").read_text())["sources"]
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    lines = [
        f"### {facts['name']}",
        "",
        f"{facts['parameters'] / 1e6:.1f}M parameters, {megabytes:.1f} MB in fp16. Trained on {facts['tokens']:,} "
        f"tokens ({facts['step']:,} steps) in {facts['minutes']:.0f} minutes on {facts['hardware']}.",
        "",
        table({source: HeldOut(**values) for source, values in measured.items()}),
    ]
    if "second_moments_lost_in_fp16" in facts:
        lost = 100 * facts["second_moments_lost_in_fp16"]
        lines += ["", f"Of the nonzero second moments {lost:.1f} % are too small for fp16 and became 0."]
    return "\n".join(lines)


def transfer_table(scores: pd.DataFrame) -> str:
    """Return pretrained against untrained, over seeds: means and the paired difference, with 95 % intervals."""
    lines = ["| model | task | score | sentences | pretrained | untrained | difference | seeds |"]
    lines.append("|---|---|---|---:|---|---|---|---:|")
    groups = scores.groupby(["model", "task", "metric", "n_train"], sort=False)
    for (model, task, metric, n_train), group in groups:
        pairs = group.pivot(index="seed", columns="start", values="value").reindex(columns=["pretrained", "random"])
        pairs = pairs.dropna()
        if pairs.empty:  # only one of the two starts has been run
            continue
        start = [student_interval(pairs[name]) for name in pairs]
        gain = paired_test(pairs["pretrained"], pairs["random"])
        shown = " | ".join(map(in_points, (*start, gain)))
        lines.append(f"| {model} | {task} | {metric} | {n_train:,} | {shown} | {len(pairs)} |")
    return "\n".join(lines)


def in_points(interval: Interval | PairedTest) -> str:
    """Return a mean with its interval in points; one value alone has none."""
    mean, low, high = (100 * value for value in interval[:3])
    return f"{mean:.1f} (one seed)" if interval.n < 2 else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def filled(page: str, section: str, text: str) -> str:
    """Return `page` with the part between the section's two marks replaced."""
    start, end = START.format(section), END.format(section)
    head, found, rest = page.partition(start)
    if not found or end not in rest:
        raise ValueError(f"expected the marks {start!r} and {end!r} in data/README.md")
    return f"{head}{start}\n{text}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Write both files."""
    sums = checksums()
    (DATA / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n")
    folders = sorted(path.parent for path in (DATA / "models").glob("*/held_out.json"))
    page = (DATA / "README.md").read_text(encoding="utf-8")
    page = filled(page, "figures", "\n\n".join(map(facts_of, folders)))
    page = filled(page, "transfer", transfer_table(pd.read_csv(DATA / "transfer.csv")))
    listing = "\n".join(f"{digest}  {name}" for name, digest in sums.items() if not name.startswith("tasks/"))
    page = filled(page, "checksums", f"```\n{listing}\n```")
    (DATA / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
