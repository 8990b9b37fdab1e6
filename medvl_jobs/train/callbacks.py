"""What happens between the steps: checkpoints to the store, a stop on SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from medvl_jobs.train.ranks import Ranks, exit_code, raise_on_all
from medvl_jobs.train.uploads import Uploads

DRAIN_SECONDS = 1.0
"""Between two looks of all processes at whether all have stored their checkpoints."""


class Checkpointing(TrainerCallback):
    """What all processes agree on at the end of each step: a stop, a checkpoint, or that one of them has failed.

    One of them alone would wait for the others for ever. Comes before `LogLines`, which logs with every checkpoint.
    """

    def __init__(
        self,
        uploads: Uploads,
        ranks: Ranks,
        *,
        every_minutes: float | None,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``every_minutes`` a checkpoint is due beside those of the Trainer; ``beat`` tells a watchdog of life."""
        self.uploads, self.ranks, self.every_minutes, self.beat, self.clock = uploads, ranks, every_minutes, beat, clock
        self.preempted = False
        """SIGTERM has ended the training before its last step, and its checkpoint is in the store."""
        self._signalled = False
        self._last_saved = clock()
        self._previous: Callable[[int, FrameType | None], Any] | int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen to SIGTERM, and start the clock. Intervals are those of now, not of the checkpoint resumed from."""
        state.compute_steps(args, state.max_steps)
        self._last_saved = self.clock()
        self._previous = signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a checkpoint, and for the end after SIGTERM to any process. Raises what has ended the uploads."""
        _, failure = self.uploads.look()
        stop, due, code = self.ranks.largest(self._signalled, self._is_due(), exit_code(failure))
        raise_on_all(failure, code)
        # With the last step there is nothing left to stop.
        self.preempted = bool(stop) and state.global_step < state.max_steps
        if due or self.preempted:
            control.should_save = True
        if self.preempted:
            control.should_training_stop = True
        return control

    def _is_due(self) -> bool:
        """By the first process's clock: the others' may differ."""
        if self.every_minutes is None or self.ranks.rank > 0:
            return False
        return self.clock() - self._last_saved >= self.every_minutes * 60

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hand the folder that the Trainer has written to the uploads."""
        self._last_saved = self.clock()
        self.uploads.put(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait until all processes have stored theirs, then give SIGTERM back. Raises what has ended the uploads."""
        busy = 1
        while busy:
            self.uploads.wait(DRAIN_SECONDS)
            self.beat()
            waits, failure = self.uploads.look()
            busy, code = self.ranks.largest(waits, exit_code(failure))
            raise_on_all(failure, code)
        self.uploads.close()
        signal.signal(signal.SIGTERM, self._previous)
