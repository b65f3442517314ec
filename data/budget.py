"""The end of a pretraining run, its progress, and what it leaves beside each checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tqdm import tqdm
from transformers import TrainerCallback


class Budget(TrainerCallback):
    """Ends the run when its minutes or steps (over all resumed runs) are used up, and shows how far it is."""

    def __init__(self, minutes: float | None, steps: int | None, spent: float) -> None:
        self.minutes, self.steps, self.spent, self.started = minutes, steps, spent, time.monotonic()
        self.bar: Any = None
        self.interrupted = False
        self.losses: dict[str, str] = {}

    def elapsed(self) -> float:
        """Return the minutes of training so far, over all runs."""
        return self.spent + (time.monotonic() - self.started) / 60

    def interrupt(self, *_: Any) -> None:
        """End the run, with a checkpoint, after the step under way: what Ctrl-C and `kill` do."""
        self.interrupted = True

    def done(self, step: int) -> float:
        """Return the share of the budget that is used up."""
        by_steps = step / self.steps if self.steps else 0.0
        return max(by_steps, self.elapsed() / self.minutes if self.minutes else 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        form = "{l_bar}{bar}| {elapsed} < {remaining}{postfix}"
        self.bar = tqdm(total=1.0, initial=min(1.0, self.done(state.global_step)), desc="budget", bar_format=form)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done = min(1.0, self.done(state.global_step))
        self.bar.update(done - self.bar.n)
        if (done >= 1 or self.interrupted) and not control.should_training_stop:
            control.should_training_stop = control.should_evaluate = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        state.log_history[-1]["minutes"] = round(self.elapsed(), 2)
        shown = {"loss": "training", "eval_loss": "held out"}
        self.losses |= {label: f"{logs[key]:.3f}" for key, label in shown.items() if key in logs}
        if self.bar is not None:
            self.bar.set_postfix({"step": state.global_step, **self.losses})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()


class SecondMoments(TrainerCallback):
    """Keeps AdamW's running average of squared gradients beside each checkpoint, by parameter name."""

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
        moments = getattr(optimizer, "optimizer", optimizer).state
        kept = {n: moments[p]["exp_avg_sq"].float().cpu() for n, p in model.named_parameters() if p in moments}
        save_file(kept, Path(args.output_dir) / f"checkpoint-{state.global_step}" / "exp_avg_sq.safetensors")
