"""The table of the sweep: `docs/architectures.md`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
PARTS = {
    "loss": "loss",
    "scores": "scores",
    "dropout": "rates",
    "guided": "guided rates",
    "surface": "surface",
    "trace": "trace",
}
_HEAD = """# Architectures

Written by `make architectures` (`tests/architectures/`; what was tried is in `build/` and not repeated). Every text
model type of `transformers` {version}, shrunk by its own configuration and given random weights, for each task that
the automatic classes know. Held against brute force, which is the model's own loss of each row alone, without
padding, and autograd:

- **loss**: the mean of ours against the model's own, and each sequence's against the row alone, padded on the right
  and (causal models) on the left;
- **scores**: the Fisher information of every parameter at both resolutions, on as many sequences as tokens, on a
  first batch of one sequence, and padded;
- **rates**: what a training-mode forward really uses under a uniform schedule, read off torch's dropout calls;
  **guided rates**: those of a guided schedule, measured;
- **surface**: the trained weights' own loss at the centre, finite around it, and every bit of the model back in its
  place; **trace**: of the Hessian, finite.

*Exact* is to 1e-6 or better in float64; "single" is where the model itself computes in single precision (to 1e-4 for
losses, 2e-3 for scores, which are squares). An error from deep inside may be the trial's own, where a model does not
allow the brute force: no backward pass in eval mode (Reformer, whose scores `fisher_information` refuses in one line),
no copy (RecurrentGemma).

{counts}

| type | task | exact | single | through the loop | refused or said, and why |
|---|---|---|---|---|---|
"""


def written(rows: Sequence[dict[str, str]], n_pairs: int) -> str:
    """The page for the rows of a sweep, of `n_pairs` in all."""
    built = [row for row in rows if not row["built"].startswith("no")]
    wrong = [row for row in built if _has(row, "WRONG")]
    raw = [row for row in built if _has(row, "RAW") and row not in wrong]
    refused = [row for row in built if _has(row, "refused") and row not in wrong and row not in raw]
    clean = len(built) - len(wrong) - len(raw) - len(refused)
    counts = (
        f"{len(rows)} of {n_pairs} pairs of type and task were tried, {len(built)} could be built and gave a finite "
        f"loss of their own: {clean} without remark, {len(refused)} with something refused in one line, "
        f"{len(raw)} with an error from deep inside, {len(wrong)} with a number that is not right."
    )
    lines = [_line(row) for row in sorted(built, key=lambda row: (row["type"], row["task"]))]
    page = _HEAD.format(version=version("transformers"), counts=counts) + "\n".join(lines) + "\n"
    missing = sorted((row for row in rows if row not in built), key=lambda row: (row["type"], row["task"]))
    if missing:
        page += "\nNot built: the type needs more than text, is not among the installed packages, or cannot be shrunk "
        page += "by its configuration alone.\n\n| type | task | why |\n|---|---|---|\n"
        page += "\n".join(f"| {row['type']} | {row['task']} | {_plain(row['built'][4:])} |" for row in missing) + "\n"
    return page


def _has(row: dict[str, str], word: str) -> bool:
    return any(word in str(row.get(part, "")) for part in PARTS)


def _line(row: dict[str, str]) -> str:
    exact, single, remarks, loop = [], [], [], ""
    for part, name in PARTS.items():
        found = row.get(part, "")
        if through := re.search(r"(\d+) parameters through the loop", found):
            loop = f"{through[1]} parameters"
        if "WRONG" in found or "RAW" in found or "refused" in found or "not tried" in found:
            remarks.append(f"{name}: {found}")
        if re.match(r"exact|finite|\d+ sites", found):
            exact.append(name)
        elif found.startswith(("single", "of rows")):
            single.append(name)
        if "without control" in found:
            remarks.append(found)
    if row.get("said"):
        remarks.append(row["said"])
    cells = (row["type"], row["task"], ", ".join(exact), ", ".join(single), loop, "; ".join(map(_plain, remarks)))
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")
