"""One process per GPU, started from the one process of a container.

It stands where torchrun usually does and follows the same conventions (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``,
``MASTER_ADDR``, ``MASTER_PORT``; ``PET_…`` as Kubeflow's training operator sets them). torchrun ends with code 1
whatever its processes end with, and kills them 30 seconds after SIGTERM, in the middle of a checkpoint; see decision
0014.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from medvl_jobs.errors import PERMANENT, PreemptedError, TryAgainError
from medvl_jobs.processes import die_with_parent, leave_last_words, shell_code
from medvl_jobs.settings.environment import Topology

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long the others may go on when one process has failed: without it they wait for it in a collective."""
POLL_SECONDS = 0.2
SETTLE_SECONDS = 1.0
"""Several fail at the same moment, one of them with the reason and the others because of it."""
STACKS_SECONDS = 1.0
"""What a process that does not end may take to write down where it is."""
ABORTED = 128 + signal.SIGABRT
"""How NCCL's watchdog ends a process that has waited too long for the others; it leaves no last words."""
CONSEQUENCES = frozenset({TryAgainError.exit_code, ABORTED})
"""What a process ends with when another is gone, among others: any other code is nearer to the cause."""
STUCK = {"T": "stopped", "t": "stopped", "D": "waiting for a disk, or a network file system"}
"""The kernel's states (``man 5 proc``) that tell why a process does not end; ``S`` may be any wait of a sound one."""

WHY: dict[int, str] = {
    signal.SIGKILL: "most often by the kernel, as memory ran out: raise the memory limit of this stage, or lower "
    "train.workers",
    signal.SIGABRT: "most often by NCCL, as another process did not come in time: the log says which operation",
}


def launch(words: Sequence[str], topology: Topology, termination_log: Path) -> int:
    """Run ``medvl`` with these words once per GPU; returns the exit code that tells most.

    That is the code of the first process that failed on its own. SIGTERM is passed on, and whatever the processes make
    of it (a checkpoint, code 143) is waited for: the grace period is the kubelet's business. The last words of that
    first process go to ``termination_log``; for one that a signal has ended, and that left none, they are made here.
    SIGABRT is 75, see `ABORTED`.
    """
    with tempfile.TemporaryDirectory(prefix="medvl-ranks-") as folder:
        logs = [Path(folder) / f"rank-{rank}" for rank in range(topology.processes)]
        for path in logs:
            path.touch()
        children = _Children(words, topology, logs)
        code, rank = children.wait()
        said = logs[rank].read_text(encoding="utf-8", errors="replace")
        number = -(children.processes[rank].returncode or 0)
        if code == ABORTED and number == signal.SIGABRT:
            code = TryAgainError.exit_code
        if not said and code and number > 0 and number != signal.SIGTERM:
            said = _words_of_the_dead(rank, number, code)
        if said:
            leave_last_words(_with_stuck(said, children.stuck), termination_log)
    return code


def _words_of_the_dead(rank: int, number: int, code: int) -> str:
    """For a process that a signal has ended before it could say why."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    why = WHY.get(number, "its last lines in the log may say more")
    error = TryAgainError(
        f"process {rank} of this pod was ended by {name}",
        remedy=f"{why}; start again, it resumes from the last checkpoint",
    )
    return json.dumps(error.as_dict() | {"exit_code": code}) + "\n"


def _with_stuck(said: str, stuck: Sequence[str]) -> str:
    """The words of who has waited, with those named for whom it did."""
    try:
        words = json.loads(said)
    except ValueError:
        return said
    if not stuck or not isinstance(words, dict):
        return said
    where = "; ".join(each for each in (words.get("where"), *stuck) if each)
    return json.dumps(words | {"where": where}) + "\n"


class _Children:
    def __init__(self, words: Sequence[str], topology: Topology, logs: Sequence[Path]) -> None:
        self.stopped = False
        self.stuck: list[str] = []
        """Those that had to be killed, as far as the kernel knows why they did not end."""
        self.processes: list[subprocess.Popen[bytes]] = []
        self._previous = signal.signal(signal.SIGTERM, self._stop)
        log.info(
            "starting %d processes, on machine %d of %d", topology.processes, topology.machine + 1, topology.machines
        )
        for rank, log_file in enumerate(logs):
            process = subprocess.Popen(
                [sys.executable, "-m", "medvl_jobs", *words],
                env=topology.environment(rank, log_file),
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
            self.processes.append(process)
        if self.stopped:  # by a signal that came before the last of them was there
            self._end(signal.SIGTERM)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._end(number)

    def wait(self) -> tuple[int, int]:
        """Returns the exit code, and the local rank that it is from."""
        failed: tuple[int, int] | None = None
        deadline = float("inf")
        try:
            while any(process.poll() is None for process in self.processes):
                time.sleep(POLL_SECONDS)
                if failed is None and (first := self._first_failure()):
                    time.sleep(SETTLE_SECONDS)
                    failed = self._first_failure() or first
                    log.error("process %d of this pod ended with %d, ending the others", failed[1], failed[0])
                    deadline = time.monotonic() + GRACE_SECONDS
                    # One that has stopped by itself did so with all others, which are still storing their part.
                    if failed[0] != PreemptedError.exit_code:
                        self._end(signal.SIGTERM)
                if time.monotonic() > deadline:
                    deadline = float("inf")
                    self._kill_stuck()
        finally:
            signal.signal(signal.SIGTERM, self._previous)
            self._end(signal.SIGKILL)
        return failed or self._first_failure() or self._last()

    def _first_failure(self) -> tuple[int, int] | None:
        """Of those that have failed on their own, not because they were told to stop, the one that tells most."""
        codes = [(shell_code(process.poll() or 0), rank) for rank, process in enumerate(self.processes)]
        stopped = {0, PreemptedError.exit_code} if self.stopped else {0}
        failed = [(code, rank) for code, rank in codes if code not in stopped]
        return min(failed, key=lambda each: (each[0] not in PERMANENT, each[0] in CONSEQUENCES, each[1]), default=None)

    def _kill_stuck(self) -> None:
        """End those that SIGTERM did not, after they have told where they are, if they can."""
        for rank, process in enumerate(self.processes):
            if process.poll() is not None:
                continue
            state, asks = _look(process.pid)
            known = f"process {rank} of this pod was {STUCK[state]}" if state in STUCK else ""
            log.error("process %d of this pod did not end in %g s (state %s)", rank, GRACE_SECONDS, state or "unknown")
            if known:
                self.stuck.append(known)
            if asks:
                process.send_signal(signal.SIGUSR1)
        time.sleep(STACKS_SECONDS)
        self._end(signal.SIGKILL)

    def _last(self) -> tuple[int, int]:
        """What they all end with: 0, or 143 after a stop."""
        codes = [shell_code(process.wait()) for process in self.processes]
        return max(codes), 0

    def _end(self, number: int) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _look(pid: int) -> tuple[str, bool]:
    """State of a process, and whether it has a handler for SIGUSR1, which would end it otherwise. Nothing but on Linux.

    `cli` makes that handler write down the Python stacks of all threads, in C: it needs no lock of Python's.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", False
    facts = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    caught = int(facts.get("SigCgt", "0"), 16)
    return facts["State"][0], bool(caught >> (signal.SIGUSR1 - 1) & 1)
