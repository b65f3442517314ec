"""Peak memory of the Fisher engine against its bounds.

    python benchmarks/fisher_memory.py              # shapes A, B, C of benchmarks/fisher.py
    python benchmarks/fisher_memory.py --run A      # a whole estimation in one process: its peak, everything included

Every case runs in a process of its own. The kernel's high-water mark of resident memory (VmHWM) is set back once the
model is loaded and warm, so the figures are MB above that; malloc is told to give freed tensors back at once, so that
they are of live tensors. The bounds: an element pass may take its accumulator (a float for every parameter), one more
of the largest tensor, and the activations; a tensor pass what inference takes, plus the activations, plus 10 %.
"Activations" are the distinct storages that autograd keeps in an ordinary training forward, weights not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fisher import fisher_pass, plain, shape

import gdrop_viz as gv

MB = 1 << 20
CASES = ("inference", "plain", "tensor", "element")
# every tensor of 64 kB and more is a mapping of its own, returned when freed
PROMPT_FREE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(key: str) -> float:
    """MB of resident memory: "VmRSS" now, "VmHWM" at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}: this benchmark needs Linux.")


def peak(name: str, what: str) -> float:
    """MB above the loaded model that one pass takes at its peak, in this process."""
    model, batch = shape(name)
    small = {key: value[:1, :16] for key, value in batch.items()}
    # libraries and thread pools are allocated by the first pass, whatever its size
    plain(model, small)
    fisher_pass(model, small, "tensor")()
    for parameter in model.parameters():
        parameter.grad = None

    def work() -> None:
        if what == "inference":
            with torch.no_grad():
                gv.sequence_losses(model, batch)
        elif what == "plain":
            plain(model, batch)
        else:
            fisher_pass(model, batch, what)()

    return added_peak(work)


def activations(name: str) -> float:
    """MB of the storages that autograd keeps in one training forward of the Hugging Face model, weights left out."""
    model, batch = shape(name)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a freed storage's address could be given to the next

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch)
    return sum(kept.values()) / MB


def whole_run(name: str) -> dict[str, float]:
    """The peak of this process, Python and libraries included, at an estimation over 32 sequences."""
    model, batch = shape(name)
    batches = [batch] * (32 // len(batch["labels"]))
    fisher = gv.fisher_information(model, batches, progress=False)
    return {"sequences": fisher.n_sequences, "parameters": len(fisher.means), "peak": resident("VmHWM")}


def added_peak(work: Callable[[], object]) -> float:
    """MB that `work` takes at its peak above what this process holds already."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def in_a_process(script: str, *arguments: str) -> Any:
    """What the last line says that `script` prints for `arguments`, run in a fresh process."""
    environment = {**os.environ, **PROMPT_FREE}
    command = [sys.executable, script, *arguments, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="ABC")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", metavar="SHAPE", help="the peak of a whole estimation")
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        name, what = options.one
        found = {"run": whole_run, "activations": activations}.get(what, lambda name: peak(name, what))(name)
        print(json.dumps(found))
        return
    if options.run:
        found = in_a_process(__file__, "--one", options.run, "run")
        print(f"{options.run}  {found['sequences']} sequences, whole process: peak {found['peak']:.0f} MB")
        return
    for name in options.shapes:
        kept = in_a_process(__file__, "--one", name, "activations")
        peaks = {what: in_a_process(__file__, "--one", name, what) for what in CASES}
        sizes = [parameter.numel() * 4 / MB for parameter in shape(name)[0].parameters()]
        bounds = {
            "tensor": 1.1 * (peaks["inference"] + kept),
            "element": sum(sizes) + max(sizes) + kept,
        }
        print(f"{name}  weights {sum(sizes):.0f} MB, largest tensor {max(sizes):.0f} MB, activations {kept:.0f} MB")
        for what, found in peaks.items():
            bound = f", bound {bounds[what]:.0f} MB" if what in bounds else ""
            print(f"{name}  {what:10s} peak +{found:.0f} MB{bound}", flush=True)


if __name__ == "__main__":
    main()
