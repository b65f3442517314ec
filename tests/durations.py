"""Tests that need a second of CPU time or more: written to `slow_tests.txt` from pytest's reports in XML.

    python -m tests.durations build/tests.xml build/check.xml

A fixture that several tests share counts for the first that asks for it, so the report of all tests (`make test`) is
read together with that of the quick ones alone (`make check`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.conftest import SLOW

LIMIT = 1.0


def slow_tests(report: Path) -> set[str]:
    """The names of the slow tests of a report, as pytest prints them."""
    names = set()
    for case in ElementTree.parse(report).iter("testcase"):
        cpu = sum(float(item.get("value", 0)) for item in case.iter("property") if item.get("name") == "cpu")
        if cpu >= LIMIT:
            names.add(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}")
    return names


if __name__ == "__main__":
    found = set[str]().union(*(slow_tests(Path(report)) for report in sys.argv[1:]))
    SLOW.write_text("".join(f"{name}\n" for name in sorted(found)), encoding="utf-8")
    print(f"{len(found)} tests need {LIMIT:g} s or more")
