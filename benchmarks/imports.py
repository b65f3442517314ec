"""Time of an import of the package in a fresh interpreter, beyond the import of torch.

    python benchmarks/imports.py [--rounds 5]

CPU seconds of the process, user and system; median over the rounds, which alternate between the cases.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

CASES = {
    "import torch": "import torch",
    "import gdrop_viz": "import gdrop_viz",
    "the same, torch there already": "import torch; began = time.process_time(); import gdrop_viz",
    "Fisher, surfaces, dropout, comparison": "import torch; began = time.process_time(); import gdrop_viz as gv; "
    "gv.fisher_information; gv.loss_surface; gv.guided_dropout; gv.compare",
    "panels": "import torch; began = time.process_time(); import gdrop_viz as gv; gv.DropoutLab",
    "the commands": "import gdrop_viz.__main__",
}


def seconds(code: str) -> float:
    """CPU seconds of `code` in a process of its own, from its `began` on where it sets that."""
    told = f"import time; began = time.process_time(); {code}; print(time.process_time() - began)"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=root)
    return float(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for code in CASES.values():  # the first one writes the compiled files
        seconds(code)
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, code in CASES.items():
            found[name].append(seconds(code))
    print(f"CPU seconds, median of {rounds} fresh processes (lowest to highest):")
    for name, values in found.items():
        print(f"  {name:38s} {statistics.median(values):6.3f}   ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
