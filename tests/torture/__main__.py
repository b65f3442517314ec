"""The full campaigns: `make torture`. Stopped, they go on where they were; the table goes to docs/reliability.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from tests.torture import arguments, damage, endurance, interrupts, kills
from tests.torture.book import Book

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Campaign:
    """A full campaign, and how its book becomes a row of the table: what was done, in numbers."""

    run: Callable[[Book], None]
    tells: Callable[[Book], str]
    question: str
    trials: Callable[[], int]


CAMPAIGNS = {
    "kills": Campaign(
        lambda book: kills.campaign(book, trials=8),
        lambda book: (
            f"{book.total('kills'):,} SIGKILLs in {len(book.outcomes)} pieces of work; at most "
            f"{max((o.get('lost', 0) for o in book.outcomes.values()), default=0)} unit lost by a kill; "
            "every result bit-identical to undisturbed work"
        ),
        "Does killed work resume and end the same?",
        lambda: 8 * len(kills.WORKS),
    ),
    "damage": Campaign(
        lambda book: damage.campaign(book, seeds=4, flips=200),
        lambda book: (
            f"{book.total('files'):,} damaged files for {len(damage.readers())} readers: "
            + ", ".join(f"{count:,} {kind}" for kind, count in book.counts("kinds").most_common())
        ),
        "Is every damaged file refused in one line?",
        lambda: 4 * len(damage.readers()),
    ),
    "arguments": Campaign(
        arguments.campaign,
        lambda book: f"{len(book.outcomes):,} bad calls of {len(arguments.covered())} public functions and methods",
        "Is every bad argument refused at once?",
        lambda: sum(map(len, arguments.table(arguments.world()).values())),
    ),
    "interrupts": Campaign(
        interrupts.campaign,
        lambda book: (
            f"{book.total('interrupts'):,} exceptions and interrupts, one at every model call of "
            f"{len(interrupts.CALLS)} kinds of public calls"
        ),
        "Is the state restored wherever a call ends?",
        lambda: len(interrupts.CALLS) * len(interrupts.ERRORS),
    ),
    "endurance": Campaign(
        endurance.campaign,
        lambda book: "; ".join(outcome["tells"] for outcome in book.outcomes.values() if "tells" in outcome),
        "Do memory, threads and files stay flat?",
        lambda: 3,
    ),
}


def table(books: dict[str, Book]) -> str:
    """The page with the results, as Markdown."""
    lines = [
        "# Reliability: what was tried, and what came of it",
        "",
        "Written by `make torture` (resumable: what is in `build/torture/` is not repeated; `make torture ONLY=kills` "
        "runs one campaign). A small, seeded part of each campaign is in `make test` (`tests/torture/`), where it is "
        "also shown that each test fails when its guard is removed.",
        "",
        "| campaign | question | tried | trials done | failed |",
        "|---|---|---|---|---|",
    ]
    for name, campaign in CAMPAIGNS.items():
        book = books[name]
        told = campaign.tells(book) if book.outcomes else "not run"
        done = f"{len(book.outcomes)} of {campaign.trials()}"
        lines.append(f"| {name} | {campaign.question} | {told} | {done} | {len(book.failures)} |")
    failures = [f"- {name}, {failure}" for name, book in books.items() for failure in book.failures]
    if failures:
        lines += ["", "## What failed", "", *failures]
    for name in ("kills", "damage"):
        kinds: dict[str, list[dict]] = {}
        for trial, outcome in books[name].outcomes.items():
            kinds.setdefault(trial.rpartition(" ")[0], []).append(outcome)
        count = {"kills": "kills", "damage": "files"}[name]
        if kinds:
            lines += ["", f"## {name.capitalize()} by kind", "", f"| kind | {count} | failed |", "|---|---|---|"]
            for kind, outcomes in kinds.items():
                total = sum(outcome.get(count, 0) for outcome in outcomes)
                lines.append(f"| {kind} | {total:,} | {sum(bool(outcome['failed']) for outcome in outcomes)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the chosen campaigns, one after the other, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("only", nargs="*", help=f"campaigns to run, by default all: {', '.join(CAMPAIGNS)}")
    parser.add_argument("--books", type=Path, default=ROOT / "build" / "torture", help="folder of the outcomes")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "reliability.md", help="the page to write")
    parser.add_argument("--table-only", action="store_true", help="write the page from what was done so far")
    options = parser.parse_args()
    unknown = sorted(set(options.only) - set(CAMPAIGNS))
    if unknown:
        parser.error(f"no campaign {unknown[0]!r}; there are {', '.join(CAMPAIGNS)}")
    torch.set_num_threads(1)
    books = {name: Book(options.books / f"{name}.jsonl") for name in CAMPAIGNS}
    for name in () if options.table_only else options.only or CAMPAIGNS:
        print(f"{name}: {CAMPAIGNS[name].question}", flush=True)
        CAMPAIGNS[name].run(books[name])
        print(f"{name}: {CAMPAIGNS[name].tells(books[name])}; failed: {len(books[name].failures)}", flush=True)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    options.table.write_text(table(books), encoding="utf-8")
    print(f"table: {options.table}")
    raise SystemExit(any(book.failures for book in books.values()))


if __name__ == "__main__":
    main()
