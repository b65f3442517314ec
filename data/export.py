"""A checkpoint as a folder of `data/models/` that any Hugging Face user can load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from build_corpus import ROOT, WORK
from recipes import RECIPES
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint

MODELS = ROOT / "data" / "models"
BEFORE = "before.json"
"""What the exported model had seen that a run goes on from."""
HALF_MAX = 32768.0
"""The largest second moment is scaled to this power of two, half of what fp16 can hold."""


def best_checkpoint(folder: Path) -> tuple[Path, dict]:
    """Return the checkpoint with the lowest held-out loss and the state of the run."""
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is None:
        raise SystemExit(f"expected a checkpoint in {folder}: run `python data/pretrain.py {folder.name}` first")
    state = json.loads((Path(last) / "trainer_state.json").read_text())
    return folder / Path(state["best_model_checkpoint"]).name, state


def continue_from_export(name: str, work: Path) -> None:
    """Prepare `work` for a run that starts from `data/models/NAME`: its tokenizer, and what was done before."""
    if not (MODELS / name / "training.json").is_file():
        raise SystemExit(f"expected an exported model in {MODELS / name}: train it first, without --go-on")
    AutoTokenizer.from_pretrained(MODELS / name).save_pretrained(work / "tokenizer")
    shutil.copy(MODELS / name / "training.json", work / BEFORE)


def facts_before(work: Path) -> dict[str, Any] | None:
    """Return what `training.json` said of the exported model that this run went on from; None if it began anew."""
    file = work / BEFORE
    return json.loads(file.read_text()) if file.is_file() else None


def added(facts: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a run and of the one that it continues, together; minutes count on by themselves."""
    shifted = [{**point, **{key: point[key] + before[key] for key in ("step", "tokens")}} for point in facts["curve"]]
    kept = [point for point in before["curve"] if point["step"] <= before["step"]]
    minutes = facts["minutes"] - before["minutes"]
    return {
        **facts,
        **{key: facts[key] + before[key] for key in ("step", "tokens")},
        "hardware": f"{before['hardware']}, the last {minutes:.0f} on {facts['hardware']}",
        "curve": kept + shifted,
    }


def curve_of(history: list[dict], tokens_per_step: int) -> list[dict[str, float]]:
    """Return the held-out losses of a run, with the mean training loss since the one before."""
    points, training = [], []
    for entry in history:
        if "loss" in entry:
            training.append(entry["loss"])
        if "eval_loss" in entry:
            point = {"step": entry["step"], "tokens": entry["step"] * tokens_per_step, "minutes": entry["minutes"]}
            point["held_out"] = round(entry["eval_loss"], 4)
            if training:
                point["training"] = round(sum(training) / len(training), 4)
            points.append(point)
            training = []
    return points


def save_moments(source: Path, target: Path) -> float:
    """Write AdamW's second moments as fp16 and return the share of nonzero ones that fp16 lost.

    One power of two scales them all, so that ratios between tensors survive; it stands in the metadata:
    second moment = stored value / scale.
    """
    moments = load_file(source)
    largest = max(float(tensor.max()) for tensor in moments.values())
    scale = 2.0 ** int(torch.tensor(HALF_MAX / largest).log2().floor())
    halves = {name: (tensor * scale).half() for name, tensor in moments.items()}
    lost = sum(int(((moments[name] > 0) & (half == 0)).sum()) for name, half in halves.items())
    nonzero = sum(int((tensor > 0).sum()) for tensor in moments.values())
    meaning = "AdamW exp_avg_sq of clipped gradients of the mean loss over a batch; value = stored / scale"
    save_file(halves, target, metadata={"format": "pt", "scale": repr(scale), "beta2": "0.98", "meaning": meaning})
    target.chmod(0o644)
    return lost / nonzero


def export(name: str) -> None:
    """Write weights (fp16), configuration, tokenizer and curve of the best checkpoint to `data/models/NAME`."""
    recipe, work, folder = RECIPES[name], WORK / "pretrain" / name, MODELS / name
    checkpoint, state = best_checkpoint(work)
    # for the one on disk: its own history ends where it was saved
    own = json.loads((checkpoint / "trainer_state.json").read_text())
    model = recipe.auto.from_pretrained(checkpoint, dtype=torch.float32)
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    # fp16 saves space on disk only: a plain `from_pretrained` shall compute in fp32
    config["dtype"] = "float32"
    config["use_cache"] = True  # training switches it off; generation wants it
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    AutoTokenizer.from_pretrained(work / "tokenizer").save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if key not in ("is_local", "local_files_only")}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    if recipe.licence:
        (folder / "LICENSE").write_text(recipe.licence())
    facts = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "step": own["global_step"],
        "tokens": own["global_step"] * recipe.tokens_per_step,
        "minutes": own["log_history"][-1]["minutes"],
        "hardware": (work / "hardware.txt").read_text(),
        "curve": curve_of(state["log_history"], recipe.tokens_per_step),
    }
    if before := facts_before(work):
        facts = added(facts, before)
    if recipe.keep_moments:
        lost = save_moments(checkpoint / "exp_avg_sq.safetensors", folder / "exp_avg_sq.safetensors")
        facts["second_moments_lost_in_fp16"] = round(lost, 6)
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{name}: step {facts['step']}, {facts['tokens']:,} tokens, {megabytes:.1f} MB in {folder.relative_to(ROOT)}")
