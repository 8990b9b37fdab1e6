"""One process per GPU, started from the one process of a container.

It stands where torchrun usually does and follows the same conventions (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``,
``MASTER_ADDR``, ``MASTER_PORT``; ``PET_…`` as Kubeflow's training operator sets them). torchrun ends with code 1
whatever its processes end with, and kills them 30 seconds after SIGTERM, in the middle of a checkpoint; see decision
0014.
"""

from __future__ import annotations

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

from medvl_jobs.errors import PERMANENT, PreemptedError
from medvl_jobs.processes import die_with_parent, leave_last_words, shell_code
from medvl_jobs.settings.environment import Topology

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long the others may go on when one process has failed: without it they wait for it in a collective."""
POLL_SECONDS = 0.2
SETTLE_SECONDS = 1.0
"""Several fail at the same moment, one of them with the reason and the others because of it."""


def launch(words: Sequence[str], topology: Topology, termination_log: Path) -> int:
    """Run ``medvl`` with these words once per GPU; returns the exit code that tells most.

    That is the code of the first process that failed on its own. SIGTERM is passed on, and whatever the processes make
    of it (a checkpoint, code 143) is waited for: the grace period is the kubelet's business. The last words of that
    first process go to ``termination_log``.
    """
    with tempfile.TemporaryDirectory(prefix="medvl-ranks-") as folder:
        logs = [Path(folder) / f"rank-{rank}" for rank in range(topology.processes)]
        for path in logs:
            path.touch()
        children = _Children(words, topology, logs)
        code, rank = children.wait()
        if said := logs[rank].read_text(encoding="utf-8", errors="replace"):
            leave_last_words(said, termination_log)
    return code


class _Children:
    def __init__(self, words: Sequence[str], topology: Topology, logs: Sequence[Path]) -> None:
        self.stopped = False
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
                    self._end(signal.SIGTERM)
                if time.monotonic() > deadline:
                    self._end(signal.SIGKILL)
        finally:
            signal.signal(signal.SIGTERM, self._previous)
            self._end(signal.SIGKILL)
        return failed or self._first_failure() or self._last()

    def _first_failure(self) -> tuple[int, int] | None:
        """Of those that have failed on their own, not because they were told to stop, the one that tells most."""
        codes = [(shell_code(process.poll() or 0), rank) for rank, process in enumerate(self.processes)]
        stopped = {0, PreemptedError.exit_code} if self.stopped else {0}
        failed = [(code, rank) for code, rank in codes if code not in stopped]
        return min(failed, key=lambda each: (each[0] not in PERMANENT, each[1]), default=None)

    def _last(self) -> tuple[int, int]:
        """What they all end with: 0, or 143 after a stop."""
        codes = [shell_code(process.wait()) for process in self.processes]
        return max(codes), 0

    def _end(self, number: int) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)
