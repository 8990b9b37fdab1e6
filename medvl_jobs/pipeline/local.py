"""Carry out a plan on this machine: each stage is a process with the command line that its container would have."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from medvl_jobs.errors import MedvlError, PreemptedError, TryAgainError, error_class
from medvl_jobs.pipeline.plan import Step
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.processes import die_with_parent, shell_code

log = logging.getLogger(__name__)

MEDVL = [sys.executable, "-m", "medvl_jobs"]
"""``medvl`` of this very environment, wherever the shell's path may lead."""
KILLED = 128 + signal.SIGKILL


def execute(
    steps: Sequence[Step], config: Path, ended: Callable[[Stage, MedvlError], None] = lambda stage, error: None
) -> dict[str, float]:
    """Run what is to be run, one stage after the other; returns the seconds of each.

    Raises the error class that fits the exit code of a stage that fails, after which nothing more is started; ``ended``
    is told before.
    """
    seconds = {}
    for step in steps:
        if step.action != "run":
            log.info("%s: %s", step.stage.name, "finished before, reused" if step.action == "reuse" else "not needed")
            continue
        started = time.monotonic()
        log.info("%s: medvl %s", step.stage.name, " ".join(step.stage.words))
        code = _run([*MEDVL, *step.stage.words, "--config", str(config)])
        seconds[step.stage.name] = time.monotonic() - started
        if code != 0:
            error = _failure(step.stage, code)
            ended(step.stage, error)
            raise error
        log.info("%s: done in %.1f s", step.stage.name, seconds[step.stage.name])
    return seconds


def _failure(stage: Stage, code: int) -> MedvlError:
    if code == KILLED:  # without a message of its own
        return TryAgainError(
            f"the stage {stage.name} was ended by SIGKILL",
            where=stage.prefix,
            remedy="most often by the kernel, as memory ran out: give it more, or less to do at once (prep.workers, "
            "train.batch_size, eval.batch_size); what is finished is kept: start the same command again",
        )
    return error_class(code)(
        f"the stage {stage.name} ended with exit code {code}",
        where=stage.prefix,
        remedy="its own message is above; what is finished is kept: mend it, start the same command again",
    )


def _run(command: list[str]) -> int:
    """Run a child that gets our SIGTERM and does not outlive us; returns its exit code as a shell would."""
    child = subprocess.Popen(command, preexec_fn=die_with_parent)  # noqa: PLW1509

    def forward(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        child.send_signal(number)  # Popen checks that the child is still there

    stopped: list[int] = []
    previous = signal.signal(signal.SIGTERM, forward)
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
    if stopped and code == 0:
        return PreemptedError.exit_code  # it came as the stage ended: the stage is done, the run is to stop
    return shell_code(code)
