"""Pretraining of the bundled models, their export and measurement.

    python data/pretrain.py bert-mini --minutes 90      # train, or go on; what was done is kept when it stops
    python data/pretrain.py bert-mini --export          # write data/models/bert-mini from the best checkpoint
    python data/pretrain.py bert-mini --evaluate        # held-out loss against unigram and bigram models
    python data/pretrain.py bert-mini --go-on --minutes 106   # train the exported model further, on text of its own

Text comes from `python data/build_corpus.py`. Checkpoints, tokens and the curve are kept in `build/pretrain/NAME`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
from pathlib import Path
from typing import Any

# the tokenizer's threads and the data loader's do not mix; the text is tokenized once, so nothing is lost
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# threads that wait for each other by spinning cost a busy machine most of its speed: measured 2 s a step, not 8 to 13
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from budget import Budget, SecondMoments
from build_corpus import ROOT, WORK
from export import MODELS, continue_from_export, export, facts_before
from held_out import as_json, held_out_slice, measure, table, token_losses
from recipes import MIXTURE, RECIPES, Recipe, new_model, saved_tokenizer
from token_batches import HeldOutBatches, TrainingSteps, token_stream
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler, SequentialSampler
from transformers import AutoTokenizer, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import gdrop_viz as gv

BETAS, EPSILON, WEIGHT_DECAY, CLIP = (0.9, 0.98), 1e-6, 0.01, 1.0
DECAY = 0.5
"""The learning rate is constant after warm-up and falls linearly to 0 over this last share of the budget."""
HELD_OUT_ROWS, MEASURED_ROWS = 48, 512
"""Held-out sequences of each source that choose the best checkpoint, and that `--evaluate` measures."""


def streams_of(name: str, tokenizer: Any, part: str) -> dict[str, Any]:
    """Return the token stream of each source, made on first use; `part` is "train" or "heldout"."""
    separator = RECIPES[name].separator(tokenizer)
    streams = {}
    for source in MIXTURE:
        text = WORK / "corpus" / f"{source}-{part}.txt"
        if not text.is_file():
            raise SystemExit(f"expected {text.relative_to(ROOT)}: run `python data/build_corpus.py` first")
        streams[source] = token_stream(text, tokenizer, WORK / "pretrain" / name / "tokens", separator=separator)
    return streams


def bfloat16_is_fast() -> bool:
    """Say whether the processor multiplies in bfloat16 itself (it halves the time of a step, measured on AVX-512)."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


class Pretrainer(Trainer):
    """A `Trainer` whose loss is the mean over predicted tokens and whose data come in the order of the steps."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        # the Trainer's own mixed precision wraps `model.forward`, which the cheap head goes round
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=bfloat16_is_fast()):
            loss = token_losses(model, inputs)[0].mean()
        return (loss, {}) if return_outputs else loss

    def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler:
        return SequentialSampler(self.train_dataset)


def optimizer_of(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on the matrices only.

    With `proportional_steps` the learning rate of a tensor is the recipe's times the root mean square of its values
    at the start (Shazeer & Stern 2018, "Adafactor", section 8, for Adam).
    """

    def group(parameters: list[torch.nn.Parameter], factor: float = 1.0) -> dict[str, Any]:
        decay = WEIGHT_DECAY if parameters[0].ndim > 1 else 0.0
        return {"params": parameters, "lr": factor * recipe.learning_rate, "weight_decay": decay}

    parameters = list(model.parameters())
    if recipe.proportional_steps:
        groups = [group([p], p.detach().square().mean().sqrt().item()) for p in parameters]
    else:
        groups = [group([p for p in parameters if p.ndim > 1]), group([p for p in parameters if p.ndim <= 1])]
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, fused=True)


def hardware() -> str:
    """Say in words what the training runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    n = torch.get_num_threads()
    return f"{n} thread{'s' * (n > 1)} of {names[0] if names else platform.processor()}"


def train(name: str, *, minutes: float | None, steps: int | None, seed: int, every: int, go_on: bool) -> None:
    """Train `name` until the budget is used up, from its last checkpoint if there is one.

    `go_on` starts from the exported weights when there is none; their minutes count in the budget, so that the learning
    rate goes on falling from where it would stand. The optimizer's averages are built up anew.
    """
    recipe, folder = RECIPES[name], WORK / "pretrain" / name
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if go_on and last is None:
        continue_from_export(name, folder)
    before = facts_before(folder)
    tokenizer = saved_tokenizer(name, folder / "tokenizer")
    most = steps or 1_000_000
    data = TrainingSteps(
        streams_of(name, tokenizer, "train"),
        MIXTURE,
        recipe.corrupt(tokenizer, training=True),
        n_steps=most,
        tokens=recipe.tokens_per_step,
        lengths=recipe.lengths,
        seed=seed + (before["step"] if before else 0),  # other draws than those it has seen
    )
    noise = recipe.corrupt(tokenizer, training=False)
    held_out = HeldOutBatches(streams_of(name, tokenizer, "heldout"), noise, rows=HELD_OUT_ROWS, length=128)
    history = json.loads((Path(last) / "trainer_state.json").read_text())["log_history"] if last else []
    spent = max((entry.get("minutes", 0.0) for entry in history), default=before["minutes"] if before else 0.0)
    budget = Budget(minutes, steps, spent)
    (folder / "hardware.txt").write_text(hardware())

    model = new_model(name, tokenizer, seed=seed)
    if not recipe.dropout:
        gv.uniform_dropout(model, 0.0).apply(model)
    optimizer = optimizer_of(model, recipe)
    if before:  # after the optimizer, whose steps may go by the size of a tensor at the very start
        model.load_state_dict(recipe.auto.from_pretrained(MODELS / name, dtype=torch.float32).state_dict())

    def learning_rate_factor(step: int) -> float:
        return min((step + 1) / recipe.warmup_steps, max(0.0, 1 - budget.done(step)) / DECAY, 1.0)

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=most,
        per_device_train_batch_size=1,  # an item of the data is a whole batch
        per_device_eval_batch_size=1,
        max_grad_norm=CLIP,
        seed=seed,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=last is None,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        metric_for_best_model="loss",
        greater_is_better=False,
        logging_steps=max(1, every // 5),
        prediction_loss_only=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    trainer = Pretrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=held_out,
        data_collator=lambda items: items[0],
        optimizers=(optimizer, LambdaLR(optimizer, learning_rate_factor)),
        callbacks=[budget, *([SecondMoments()] if recipe.keep_moments else [])],
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, budget.interrupt)
    trainer.train(resume_from_checkpoint=last)
    print(f"{name}: best held-out loss {trainer.state.best_metric:.4f} nats in {trainer.state.best_model_checkpoint}")


def evaluate(name: str) -> None:
    """Measure the exported model on every source, print the table and keep it beside the weights."""
    folder, recipe = MODELS / name, RECIPES[name]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), recipe.auto.from_pretrained(folder)
    noise = recipe.corrupt(tokenizer, training=False)
    train_streams, held_out = streams_of(name, tokenizer, "train"), streams_of(name, tokenizer, "heldout")
    measured = {}
    for source, stream in held_out.items():
        n_characters = len((WORK / "corpus" / f"{source}-heldout.txt").read_text(encoding="utf-8"))
        measured[source] = measure(
            model, stream, train_streams[source], noise, n_characters=n_characters, n_rows=MEASURED_ROWS
        )
    shipped = held_out_slice(model, held_out["austen"], noise)
    stated = {"sources": as_json(measured), "slice": shipped}
    (folder / "held_out.json").write_text(json.dumps(stated, indent=1) + "\n")
    print(table(measured))


def main() -> None:
    """Train, export or evaluate one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--minutes", type=float, help="budget of training time, over all resumed runs together")
    parser.add_argument("--steps", type=int, help="budget of optimizer steps")
    parser.add_argument("--go-on", action="store_true", help="without a checkpoint: start from the exported weights")
    parser.add_argument("--every", type=int, default=50, help="steps between held-out losses and checkpoints")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", action="store_true", help="write data/models/NAME from the best checkpoint")
    parser.add_argument("--evaluate", action="store_true", help="measure data/models/NAME on held-out text")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # denormals slow a CPU down tenfold in the first steps
    if not (options.export or options.evaluate):
        if not (options.minutes or options.steps):
            parser.error("expected a budget: --minutes or --steps")
        budget = {"minutes": options.minutes, "steps": options.steps}
        train(options.name, **budget, seed=options.seed, every=options.every, go_on=options.go_on)
    if options.export:
        export(options.name)
    if options.evaluate:
        evaluate(options.name)


if __name__ == "__main__":
    main()
