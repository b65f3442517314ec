"""Everything that needs a GPU, in one run of twelve minutes: tests, pretraining, Fisher, surfaces, comparisons.

    python data/build_corpus.py --tokens        # beforehand, with a network: build/tokens/NAME.npz
    python benchmarks/gpu.py                    # all steps; results in build/gpu/STEP.json as they come
    python benchmarks/gpu.py --only fisher,surface
    python benchmarks/gpu.py --dry-run          # the same code at toy size on the CPU: proves that it runs

Each step is a process of its own with a time limit, so that neither a crash nor a full card ends the others; a step
whose file is complete is not repeated. docs/gpu.md explains the tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from gpu_contestants import by_vmap, ghost_norms, ours, side_by_side

ROOT = Path(__file__).resolve().parents[1]

# step -> seconds that it may take on a GPU; twelve minutes in all
LIMITS = {
    "tests": 90,
    "pretrain-bert-mini": 180,
    "pretrain-gpt2-mini": 160,
    "pretrain-t5-mini": 160,
    "fisher": 70,
    "largest": 60,
    "surface": 50,
    "comparison": 60,
}
_START_UP = 30  # seconds that a step needs before and after its own work


@dataclass(frozen=True)
class Setting:
    """Where and at which size a step runs."""

    output: Path
    dry: bool

    @property
    def device(self) -> str:
        """The GPU, or the CPU in a dry run."""
        return "cpu" if self.dry or not torch.cuda.is_available() else "cuda"

    def pick(self, full: Any, toy: Any) -> Any:
        """Return the size for the GPU, or the toy's."""
        return toy if self.dry else full

    def autocast(self) -> Any:
        """bfloat16 in the forward, as one trains on a GPU."""
        return torch.autocast(self.device, torch.bfloat16)

    def report(self, step: str, row: dict[str, Any]) -> None:
        """Append a row to the step's file and print it."""
        with (self.output / f"{step}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{step}: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


# --- the steps --------------------------------------------------------------------------------------------------------


def run_tests(setting: Setting, seconds: float) -> None:
    """The tests that are marked `gpu`; in a dry run they are collected only."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:nbval", "tests/gpu"]
    done = subprocess.run([*command, *setting.pick([], ["--collect-only"])], cwd=ROOT, capture_output=True, text=True)
    setting.report("tests", {"exit": done.returncode, "last line": (done.stdout.strip() or "none").splitlines()[-1]})
    if done.returncode:
        raise SystemExit(done.stdout[-4000:])


def pretrain(name: str, setting: Setting, seconds: float) -> None:
    """Continue the pretraining of a bundled model from prepared tokens (data/pretrain_gpu.py)."""
    from pretrain_gpu import pretrain_for

    pretrain_for(
        name,
        seconds,
        setting.output / name,
        setting.device,
        partial(setting.report, f"pretrain-{name}"),
        toy=setting.dry,
    )


def fisher(setting: Setting, seconds: float) -> None:
    """Cost of one batch as a multiple of a plain pass: ours, ghost norms, `vmap`; peak memory; sequences a second."""
    for name, (model, batch) in fisher_shapes(setting).items():
        parameters = dict(model.named_parameters())

        def plain(model: nn.Module = model, batch: dict[str, torch.Tensor] = batch) -> None:
            model.zero_grad(set_to_none=True)
            with setting.autocast():
                loss = model(**batch).loss
            loss.backward()

        contestants = {
            "plain": plain,
            "element": ours(model, batch, "element", setting.autocast),
            "tensor": ours(model, batch, "tensor", setting.autocast),
            "ghost norms": lambda model=model, batch=batch: ghost_norms(model, batch, setting.autocast),
            "vmap": lambda model=model, batch=batch, parameters=parameters: by_vmap(model, parameters, batch),
        }
        base = None
        for contestant, run in contestants.items():
            try:
                took, peak = timed(run, setting, rounds=setting.pick(7, 1))
            except RuntimeError as error:  # out of memory, or what vmap cannot do
                setting.report("fisher", {"shape": name, "way": contestant, "failed": str(error).splitlines()[0][:120]})
                continue
            base = base or took
            rate = round(len(batch["input_ids"]) / took, 1)
            row = {"shape": name, "way": contestant, "x plain": round(took / base, 2), "sequences a second": rate}
            setting.report("fisher", {**row, "peak MB": peak})


def largest(setting: Setting, seconds: float) -> None:
    """The largest model of a Llama shape whose Fisher information fits, at tensor and at element resolution."""
    from transformers import LlamaConfig, LlamaForCausalLM

    start = time.monotonic()
    sizes = setting.pick([(2048, 16), (2560, 32), (4096, 32), (5120, 40), (6656, 60)], [(16, 1), (32, 2)])
    for resolution in ("tensor", "element"):
        for width, layers in sizes:
            if time.monotonic() - start > seconds:
                return
            config = LlamaConfig(
                vocab_size=setting.pick(32000, 64), hidden_size=width, intermediate_size=int(width * 2.7) // 16 * 16,
                num_hidden_layers=layers, num_attention_heads=width // setting.pick(128, 8),
            )  # fmt: skip
            try:
                with torch.device(setting.device):
                    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
                ids = torch.randint(0, config.vocab_size, (4, setting.pick(512, 8)), device=setting.device)
                batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
                run = ours(model, batch, resolution, nullcontext)
                took, peak = timed(run, setting, rounds=1)
            except RuntimeError as error:
                setting.report(
                    "largest", {"resolution": resolution, "width": width, "layers": layers, "failed": str(error)[:80]}
                )
                break
            billions = round(sum(p.numel() for p in model.parameters()) / 1e9, 3)
            setting.report(
                "largest",
                {"resolution": resolution, "10^9 parameters": billions, "seconds": round(took, 2), "peak MB": peak},
            )
            del model


def surface(setting: Setting, seconds: float) -> None:
    """Points of a 51 x 51 surface a second, against as many plain passes, and several points side by side."""
    import gdrop_viz as gv

    name, (model, batch) = next(iter(fisher_shapes(setting).items()))
    plane = [gv.random_direction(model, seed=seed) for seed in (0, 1)]
    points = setting.pick(51, 3)
    with setting.autocast():
        ours_took, peak = timed(
            lambda: gv.loss_surface(model, [batch], plane, points=points, progress=False), setting, rounds=1
        )

        def passes() -> None:
            with torch.no_grad():
                for _ in range(points**2):
                    model(**batch)

        plain_took, _ = timed(passes, setting, rounds=1)
        several = setting.pick(4, 2)
        beside_took, _ = timed(lambda: side_by_side(model, batch, plane, several), setting, rounds=setting.pick(5, 1))
    rates = {
        "ours": points**2 / ours_took,
        "plain": points**2 / plain_took,
        f"{several} side by side": several / beside_took,
    }
    setting.report(
        "surface",
        {"shape": name, **{f"points a second, {way}": round(r, 1) for way, r in rates.items()}, "peak MB": peak},
    )


def comparison(setting: Setting, seconds: float) -> None:
    """Steps a second of `gv.compare` against a plain loop over equal batches, BERT-base shape."""
    from transformers import BertConfig, BertForMaskedLM, get_linear_schedule_with_warmup

    import gdrop_viz as gv
    from gdrop_viz.finetuning.classifier import build_classifier

    small = gv.load_pretrained("bert-mini")
    shape = setting.pick(
        {}, {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    )
    lm = gv.Pretrained(
        BertForMaskedLM(BertConfig(vocab_size=len(small.tokenizer), **shape)),
        small.tokenizer,
        objective="mlm",
        name="BERT",
    )
    task = gv.load_task("sentiment").subset(n_train=setting.pick(1600, 32), n_validation=setting.pick(100, 16))
    start = time.monotonic()
    result = gv.compare(lm, task, {"standard": 0.1}, seeds=[0], epochs=1, batch_size=16, progress=False)
    whole, steps = time.monotonic() - start, len(task.train) / 16
    own = float(result.runs["seconds"].max())
    model = build_classifier(lm, task).to(setting.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=setting.device == "cuda")
    schedule = get_linear_schedule_with_warmup(optimizer, 0, int(steps))
    texts, labels = list(task.train["text"]), list(task.train["label"])

    def loop() -> None:
        for first in range(0, len(texts), 16):
            batch = lm.tokenizer(texts[first : first + 16], padding=True, truncation=True, return_tensors="pt")
            batch["labels"] = torch.tensor(labels[first : first + 16])
            model(**{key: value.to(setting.device) for key, value in batch.items()}).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()

    took, peak = timed(loop, setting, rounds=1)
    row = {"compare, whole": steps / whole, "compare, training": steps / own, "plain loop": steps / took}
    setting.report(
        "comparison", {**{f"steps a second, {way}": round(rate, 1) for way, rate in row.items()}, "peak MB": peak}
    )


# --- what the steps share ---------------------------------------------------------------------------------------------


def fisher_shapes(setting: Setting) -> dict[str, tuple[nn.Module, dict[str, torch.Tensor]]]:
    """BERT-base 32 x 128 and GPT-2-small 32 x 128 with random weights, or toys."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    toy = {
        "vocab_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
    }
    n, length = setting.pick((32, 128), (4, 8))
    bert = BertForMaskedLM(BertConfig(**setting.pick({}, toy)))
    gpt2 = GPT2LMHeadModel(GPT2Config(**setting.pick({}, {"vocab_size": 64, "n_layer": 1, "n_head": 2, "n_embd": 16})))
    found = {}
    for name, model in {"BERT-base": bert, "GPT-2-small": gpt2}.items():
        ids = torch.randint(5, model.config.vocab_size, (n, length), device=setting.device)
        labels = ids.clone()
        if name == "BERT-base":
            labels[torch.rand(n, length, device=setting.device) >= 0.15] = -100
            labels[:, 0] = ids[:, 0]
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        found[f"{name} {n} x {length}"] = model.to(setting.device).eval(), batch
    return found


def timed(run: Callable[[], Any], setting: Setting, *, rounds: int) -> tuple[float, int]:
    """Median seconds of `run` after one warm-up (none for one round), and the peak of the card's memory in MB."""
    cuda = setting.device == "cuda"
    if rounds > 1:
        run()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() // 2**20 if cuda else 0
    return sorted(seconds)[rounds // 2], peak


STEPS: dict[str, Callable[[Setting, float], None]] = {
    "tests": run_tests,
    **{f"pretrain-{name}": partial(pretrain, name) for name in ("bert-mini", "gpt2-mini", "t5-mini")},
    "fisher": fisher,
    "largest": largest,
    "surface": surface,
    "comparison": comparison,
}


# --- the run ----------------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> int:
    """Run the steps one after the other, each in a process with its limit; return how many failed."""
    options.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for step in options.only:
        done = options.output / f"{step}.done"
        if done.is_file() and not options.again:
            print(f"{step}: done before ({done})", flush=True)
            continue
        (options.output / f"{step}.jsonl").unlink(missing_ok=True)
        command = [
            sys.executable,
            __file__,
            "--step",
            step,
            "--output",
            str(options.output),
            *["--dry-run"] * options.dry_run,
        ]
        start = time.monotonic()
        try:
            code = subprocess.run(command, timeout=LIMITS[step], cwd=ROOT).returncode
        except subprocess.TimeoutExpired:
            code = "time limit"
        print(
            f"{step}: {'ended' if code == 0 else f'failed ({code})'} after {time.monotonic() - start:.0f} s", flush=True
        )
        failed += code != 0
        if code == 0:
            done.write_text(time.strftime("%Y-%m-%d %H:%M\n"))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(STEPS), help="steps, by commas")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--again", action="store_true", help="repeat steps that are complete")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.only) - set(STEPS):
        parser.error(f"expected steps among {', '.join(STEPS)}, got {', '.join(sorted(unknown))}")
    if options.step:
        STEPS[options.step](Setting(options.output, options.dry_run), max(1.0, LIMITS[options.step] - _START_UP))
        return
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("expected a CUDA GPU, found none; --dry-run proves the script on the CPU")
    sys.exit(run_all(options))


if __name__ == "__main__":
    main()
