"""A training that hangs ends itself, with a reason, and is started again; hanging for ever holds the GPUs for nothing.

What can go wrong, and what sees it:

- A process dies. The launcher ends the others; what they were told by the broken connection is `failures.in_our_words`.
- A process is stopped, or stuck where nothing of Python runs. The others wait for it in a collective, and their own
  watchdogs end them; then the launcher ends the one that is stuck, by SIGKILL.
- A process waits for ever by itself, for a disk, for a worker. Its own watchdog ends it.
- Another pod is gone. As above, or the collective's own time-out, which is a little longer.

A time-out of the collectives alone would not do: NCCL's ends the process by SIGABRT and says nothing, and with one
process there is none.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from medvl_jobs.errors import MedvlError, TryAgainError
from medvl_jobs.processes import leave_last_words

log = logging.getLogger(__name__)

LOOKS_PER_LIMIT = 20


class Watchdog(TrainerCallback):
    """Ends this process when no optimiser step has ended for so long. Watches from the first step to the last upload.

    Loading is not watched: it takes as long as it takes, and who waits for it does so in a collective, see
    `collective_seconds`.
    """

    def __init__(
        self, limit_minutes: float, termination_log: Path, end: Callable[[MedvlError], None] | None = None
    ) -> None:
        """``end`` is told the reason, in the watching thread; by default it ends the process with the error's code."""
        self.limit_minutes, self.termination_log = limit_minutes, termination_log
        self._end = end or self._exit
        self._last_beat = time.monotonic()
        self._step = 0
        self._over = threading.Event()

    def beat(self) -> None:
        """The training is alive."""
        self._last_beat = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Watch from now on."""
        self._step = state.global_step
        limit_collectives(collective_seconds(self.limit_minutes))
        self.beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A sign of life."""
        self._step = state.global_step
        self.beat()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """All is done."""
        self.call_off()

    def call_off(self) -> None:
        """No longer watch: also where the training has ended by an error, in a process that goes on."""
        self._over.set()

    def _watch(self) -> None:
        limit = self.limit_minutes * 60
        while not self._over.wait(limit / LOOKS_PER_LIMIT):
            if time.monotonic() - self._last_beat > limit:
                self._end(
                    TryAgainError(
                        f"no step has ended for {self.limit_minutes:g} minutes",
                        where=f"after step {self._step}",
                        remedy="the log says where each thread was; start again, it resumes from the last checkpoint. "
                        "If steps do take so long, raise train.limits.hang_minutes",
                    )
                )
                return

    def _exit(self, error: MedvlError) -> None:
        """Not by an exception: the main thread is stuck, and would never raise it."""
        try:
            log.error("%s", error)
            leave_last_words(json.dumps(error.as_dict()) + "\n", self.termination_log)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        finally:
            os._exit(error.exit_code)


def collective_seconds(limit_minutes: float) -> int:
    """How long a process waits for the others in a collective: longer than the watchdog does, which says why."""
    return round(limit_minutes * 60 * (1 + 2 / LOOKS_PER_LIMIT)) + 1


def limit_collectives(seconds: int) -> None:
    """Give every process group this time-out. The Trainer's ``ddp_timeout`` reaches not all of them.

    DeepSpeed trains in a group of its own, made with torch's default (10 minutes with NCCL, 30 with gloo), and on CPUs
    the Trainer passes none on at all. torch has no public function for it.
    """
    if dist.is_available() and dist.is_initialized():
        for group in list(distributed_c10d._world.pg_map):
            distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)
