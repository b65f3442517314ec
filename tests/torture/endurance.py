"""A thousand calls and clicks in one process: flat memory, threads and open files."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gdrop_viz as gv
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.torture.book import Book

GROWTH = 0.05


def measure() -> dict[str, int]:
    """Resident memory in bytes, threads, open files and live tensors of this process."""
    for _ in range(2):
        gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is no leak
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    tensors = sum(1 for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "tensors": tensors,
    }


def flat(work: Callable[[int], None], *, times: int, warm: int) -> dict[str, Any]:
    """Do `work(n)` so many times; raises AssertionError if anything has grown since the first `warm` times."""
    warnings.simplefilter("ignore")
    for n in range(warm):
        work(n)
    before = measure()
    for n in range(warm, times):
        work(n)
    after = measure()
    growth = after["memory"] / before["memory"] - 1
    assert growth <= GROWTH, f"memory grew by {100 * growth:.1f} %"
    for what in ("threads", "files", "tensors"):
        assert after[what] <= before[what], f"{before[what]} {what} before, {after[what]} after"
    return {"times": times, "growth": growth, **{f"{what} after": after[what] for what in ("threads", "files")}}


def _lm() -> gv.Pretrained:
    return gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm", name="tiny")


def _batches(lm: gv.Pretrained) -> gv.Batches:
    return gv.pretraining_batches(lm, sentences(20), n_sequences=4, batch_size=4, max_length=10, progress=False)


def fisher_calls(times: int, warm: int) -> dict[str, Any]:
    """One model, many estimations, every tenth saved and loaded, every tenth with a checkpoint."""
    lm = _lm()
    batches = _batches(lm)
    with tempfile.TemporaryDirectory() as folder:

        def work(n: int) -> None:
            checkpoint = Path(folder) / f"{n}.st" if n % 10 == 0 else None
            fisher = gv.fisher_information(lm.model, batches, method="batched", progress=False, checkpoint=checkpoint)
            if n % 10 == 1:
                fisher.save(Path(folder) / "fisher.st")
                gv.Fisher.load(Path(folder) / "fisher.st")

        found = flat(work, times=times, warm=warm)
    return found | {"tells": f"{times:,} Fisher calls: memory {100 * found['growth']:+.1f} %"}


def slider_moves(times: int, warm: int) -> dict[str, Any]:
    """The DropoutLab's bounds and choosers moved again and again; the preview follows each time."""
    from tests.finetuning.conftest import animal_rows

    lm = _lm()
    task = gv.Task("animals", train=animal_rows(16, seed=0), validation=animal_rows(8, seed=1))
    fisher = gv.fisher_information(lm.model, _batches(lm), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        lab = gv.DropoutLab(lm, task, fisher, path=folder)
        kinds = lab.kind.options

        def work(n: int) -> None:
            lab.lower.value = (n % 11) / 100
            lab.upper.value = (n % 23) / 100
            lab.kind.value = kinds[n % len(kinds)]
            assert lab.last_error is None, lab.last_error

        found = flat(work, times=times, warm=warm)
        lab.close()
    return found | {"tells": f"{times:,} slider moves: memory {100 * found['growth']:+.1f} %"}


def run_stop_cycles(times: int, warm: int) -> dict[str, Any]:
    """Run in the LandscapeExplorer, Stop after some points, at settings that differ."""
    lm = _lm()
    batches = _batches(lm)
    fisher = gv.fisher_information(lm.model, batches, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        explorer = gv.LandscapeExplorer(lm, fisher, batches, path=folder, points=51, k=0.1)

        def work(n: int) -> None:
            explorer.seed.value = n % 3
            explorer.run()
            end = time.monotonic() + 60
            while explorer.runner.running and "of" not in explorer.progress.value and time.monotonic() < end:
                time.sleep(0.005)
            explorer.stop()
            assert explorer.runner.wait(60), "a run did not stop"
            assert explorer.last_error is None, explorer.last_error

        found = flat(work, times=times, warm=warm)
        explorer.close()
    return found | {"tells": f"{times} Run/Stop cycles: memory {100 * found['growth']:+.1f} %, no thread left"}


def campaign(book: Book) -> None:
    """The full counts."""
    torch.set_num_threads(1)
    book.do("1,000 Fisher calls", lambda: fisher_calls(1000, warm=100))
    book.do("1,000 slider moves", lambda: slider_moves(1000, warm=100))
    book.do("50 Run/Stop cycles", lambda: run_stop_cycles(50, warm=10))
