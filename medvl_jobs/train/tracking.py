"""What is known of a training while it runs: a line per log step.

What has been seen, and what it cost, is known beforehand: the schedule says which examples a step has, and their
lengths say how many tokens and floating-point operations that is. Only clocks and memory are measured.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.publish import peak_memory_bytes
from medvl_jobs.train.batches import Schedule, Totals
from medvl_jobs.train.planner.gpus import GPUS
from medvl_jobs.train.planner.shape import ModelShape
from medvl_jobs.train.planner.speed import example_flops
from medvl_jobs.train.ranks import Ranks


class Work:
    """How much a training has seen after so many steps, and what that cost: a pure function of the schedule."""

    def __init__(self, schedule: Schedule, flops_N: np.ndarray, peak_flops: float | None) -> None:
        """``flops_N`` of each example; ``peak_flops`` a second of all GPUs together, none where that is not known."""
        self.schedule, self.flops_N, self.peak_flops = schedule, flops_N, peak_flops
        self._sums = [0.0]

    @classmethod
    def of(cls, settings: RunSettings, config: Mapping[str, Any], schedule: Schedule) -> Work:
        """Of a model with that ``config.json``, on the GPU of this process and others like it."""
        shape, lengths = ModelShape.from_config(config, settings.model.path), schedule.lengths
        flops_N = example_flops(shape, settings.train.lora, lengths.tokens, lengths.labels, lengths.images)
        peak = None
        if torch.cuda.is_available():
            peak = peak_flops(torch.cuda.get_device_name(), settings.model.dtype)
        return cls(schedule, flops_N, None if peak is None else peak * schedule.processes)

    def totals(self, steps: int) -> Totals:
        """What has gone through all GPUs after so many steps."""
        return self.schedule.totals(steps)

    def epochs(self, steps: int) -> float:
        """Epochs finished after so many steps, at least one."""
        return self.schedule[steps - 1].epoch

    def flops(self, steps: int) -> float:
        """Floating-point operations of the model for them, see `example_flops`."""
        while len(self._sums) <= steps:
            shares = self.schedule[len(self._sums) - 1].micro_batches
            examples = [example for share in shares for batch in share for example in batch]
            self._sums.append(self._sums[-1] + float(self.flops_N[examples].sum()))
        return self._sums[steps]


def peak_flops(device: str, dtype: str) -> float | None:
    """Operations a second of the GPU that torch calls ``device`` (``NVIDIA H100 80GB HBM3``), or none.

    `GPUS` has the SXM boards. Those for PCIe slots have the same names and run slower.
    """
    words = re.split(r"[^0-9A-Za-z]+", device.upper())
    found = [gpu for name, gpu in GPUS.items() if name in words]
    if not found or {"PCIE", "NVL"} & set(words):
        return None
    return found[0].bf16_flops if dtype == "bfloat16" else found[0].fp32_flops


@dataclass(frozen=True)
class _Moment:
    """What one log line counts from."""

    step: int
    time: float
    waited_microseconds: int
    left_out: int


class LogLines(TrainerCallback):
    """One JSON line per log step on stdout; the same facts in the trainer's history, and for the callbacks after it.

    The history is part of every checkpoint, so a resumed run goes on counting seconds where the last one stopped. The
    fields, each of all processes together and since the line before unless it says otherwise:

    - ``step``, ``total_steps``, ``epoch``, ``total_tokens``, ``seen_samples``, ``total_flops``: so far, all attempts.
    - ``loss``: nats per answer token, none when all steps were left out. ``left_out_steps``: those whose loss or
      gradient was no finite number. ``lr``. ``grad_norm``: before it was cut to ``train.max_grad_norm``.
    - ``tokens_per_second``, ``samples_per_second``: no padding counts.
    - ``effective_batch``: examples of a step. ``padding_share``: of all that went through.
    - ``mfu``: ``total_flops`` added, over seconds × what the GPUs could do. These are the model's operations, with no
      recomputation of activations, so the number is comparable (Chowdhery et al. 2022, arXiv 2204.02311, appendix B;
      with recomputation it would be their "hardware FLOPs utilization"). None without a GPU that `GPUS` knows.
    - ``gpu_allocated_bytes``, ``gpu_reserved_bytes``: the most on the fullest GPU; none without one.
      ``host_memory_bytes``: the most that a process ever held.
    - ``data_wait_share``: of the seconds, what the process that waited longest waited for its next micro-batch.
    - ``elapsed_seconds``: of training, all attempts. ``eta_seconds``: still to go.
    """

    def __init__(
        self,
        work: Work,
        ranks: Ranks,
        waited_seconds: Callable[[], float],
        left_out: Callable[[], int],
        out: TextIO | None = None,
    ) -> None:
        """Of this process so far, ``waited_seconds`` for data, and the steps that were ``left_out``."""
        self.work, self.ranks, self.out = work, ranks, out or sys.stdout
        self.waited_seconds, self.left_out = waited_seconds, left_out
        self.seconds_before = 0.0
        self.first = self.last = self._moment(0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, from where an earlier attempt left it."""
        self.first = self.last = self._moment(state.global_step)
        lines = training_lines(state)
        self.seconds_before = lines[-1]["elapsed_seconds"] if lines else 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Log at the last step and with every checkpoint too, so that a resumed run averages over the same steps."""
        state.epoch = self.work.epochs(state.global_step)  # the Trainer knows of one epoch only
        state.num_input_tokens_seen = self.work.totals(state.global_step).tokens
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Complete the newest history entry, print it, and pass its numbers on in ``logs``. On all processes."""
        entry = state.log_history[-1]
        numbers = {} if logs is None else logs
        # What the Trainer says at the end counts from the last resume on, and knows nothing of the schedule.
        numbers.clear()
        if "loss" not in entry:
            return
        now = self._moment(state.global_step)
        line = {**self._progress(entry, state, now), **self._counts(now), **self._measured(now)}
        self.last = now
        entry.update(line)
        numbers.update({name: value for name, value in line.items() if value is not None})
        if state.is_world_process_zero:
            print(json.dumps(line), file=self.out, flush=True)

    def _moment(self, step: int) -> _Moment:
        return _Moment(step, time.monotonic(), round(1e6 * self.waited_seconds()), self.left_out())

    def _progress(self, entry: dict[str, Any], state: TrainerState, now: _Moment) -> dict[str, Any]:
        """Where the training is."""
        since = now.time - self.first.time
        per_step = since / max(now.step - self.first.step, 1)
        steps, left_out = now.step - self.last.step, now.left_out - self.last.left_out
        return {
            "step": now.step,
            "total_steps": state.max_steps,
            "epoch": round(float(entry["epoch"]), 4),
            # A step that was left out is a 0 in the Trainer's mean.
            "loss": _number(entry["loss"] * steps / (steps - left_out)) if steps > left_out else None,
            "left_out_steps": left_out,
            "lr": _number(entry["learning_rate"]),
            "grad_norm": _number(entry.get("grad_norm")),
            "eta_seconds": round(per_step * (state.max_steps - now.step), 1),
            "elapsed_seconds": round(self.seconds_before + since, 2),
        }

    def _counts(self, now: _Moment) -> dict[str, Any]:
        """What the steps since the line before had in them, from the schedule."""
        work, before, so_far = self.work, self.work.totals(self.last.step), self.work.totals(now.step)
        new, seconds, flops = so_far - before, max(now.time - self.last.time, 1e-9), work.flops(now.step)
        attained = (flops - work.flops(self.last.step)) / seconds
        return {
            "tokens_per_second": round(new.tokens / seconds, 1),
            "samples_per_second": round(new.examples / seconds, 3),
            "total_tokens": so_far.tokens,
            "effective_batch": round(new.examples / max(now.step - self.last.step, 1), 2),
            "seen_samples": so_far.examples,
            "padding_share": round(new.padding_share, 4),
            "total_flops": _number(flops),
            "mfu": None if work.peak_flops is None else _number(attained / work.peak_flops),
        }

    def _measured(self, now: _Moment) -> dict[str, Any]:
        """Memory and waiting of the process that has most of it: one small all-reduce."""
        gpu = torch.cuda.is_available()
        allocated, reserved, host, waited = self.ranks.largest(
            torch.cuda.max_memory_allocated() if gpu else 0,
            torch.cuda.max_memory_reserved() if gpu else 0,
            peak_memory_bytes(),
            now.waited_microseconds - self.last.waited_microseconds,
        )
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        return {
            "gpu_allocated_bytes": allocated if gpu else None,
            "gpu_reserved_bytes": reserved if gpu else None,
            "host_memory_bytes": host,
            "data_wait_share": round(min(waited / 1e6 / max(now.time - self.last.time, 1e-9), 1.0), 4),
        }


def _number(value: Any) -> float | None:
    """Six significant digits of a finite number, or ``None``.

    JSON knows no NaN, and DeepSpeed reports no gradient norm for some steps.
    """
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def training_lines(state: TrainerState) -> list[dict[str, Any]]:
    """The entries of the history that `LogLines` completed, oldest first."""
    return [entry for entry in state.log_history if "elapsed_seconds" in entry]
