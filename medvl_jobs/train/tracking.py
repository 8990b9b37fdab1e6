"""What is known of a training while it runs: a line per log step."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any, TextIO

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LogLines(TrainerCallback):
    """One JSON line per log step on stdout, and the same facts in the trainer's own history.

    The history is part of every checkpoint, so a resumed run goes on counting seconds where the last one stopped.
    """

    def __init__(self, samples_per_step: int, out: TextIO | None = None) -> None:
        """``samples_per_step`` over all devices, gradient accumulation included."""
        self.samples_per_step, self.out = samples_per_step, out or sys.stdout
        self.seconds_before = 0.0
        self.started = self.last_time = time.monotonic()
        self.first_step = self.last_step = self.last_tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, from where an earlier attempt left it."""
        self.started = self.last_time = time.monotonic()
        self.first_step = self.last_step = state.global_step
        self.last_tokens = int(state.num_input_tokens_seen)
        lines = training_lines(state)
        self.seconds_before = lines[-1]["elapsed_seconds"] if lines else 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Log at the last step and with every checkpoint too, so that a resumed run averages over the same steps."""
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True
        return control

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the newest history entry and print it."""
        entry = state.log_history[-1]
        if "loss" not in entry:
            return
        now = time.monotonic()
        steps, seconds = state.global_step - self.last_step, max(now - self.last_time, 1e-9)
        tokens = int(state.num_input_tokens_seen) - self.last_tokens
        per_step = (now - self.started) / max(state.global_step - self.first_step, 1)
        line = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": round(float(entry["epoch"]), 4),
            "loss": _number(entry["loss"]),
            "lr": _number(entry["learning_rate"]),
            "grad_norm": _number(entry.get("grad_norm")),
            "tokens_per_second": round(tokens / seconds, 1),
            "samples_per_second": round(steps * self.samples_per_step / seconds, 3),
            "eta_seconds": round(per_step * (state.max_steps - state.global_step), 1),
            "elapsed_seconds": round(self.seconds_before + now - self.started, 2),
            "total_tokens": int(state.num_input_tokens_seen),
        }
        entry.update(line)
        self.last_time, self.last_step, self.last_tokens = now, state.global_step, int(state.num_input_tokens_seen)
        if state.is_world_process_zero:
            print(json.dumps(line), file=self.out, flush=True)


def _number(value: Any) -> float | None:
    """Six significant digits of a finite number, or ``None``.

    JSON knows no NaN, and DeepSpeed reports no gradient norm for some steps.
    """
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def training_lines(state: TrainerState) -> list[dict[str, Any]]:
    """The entries of the history that `LogLines` completed, oldest first."""
    return [entry for entry in state.log_history if "elapsed_seconds" in entry]
