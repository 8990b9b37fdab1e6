"""Measure a command as its user runs it: a fresh process with all that it starts, and what else the machine did."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

import psutil

INTERVAL_SECONDS = 0.02
_LOOK_EVERY = 10
"""Intervals between two looks at what the kernel keeps anyway: finding all processes is work."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Timing:
    """One run of a command."""

    wall_seconds: float
    """From the start to the end of the process that was started."""
    others_cores: float
    """Processors that were busy meanwhile with anything but this command, its processes and this benchmark."""


@dataclass(frozen=True)
class Peak:
    """The most memory that one run of a command held, in MiB, sampled each `INTERVAL_SECONDS`."""

    tree: float
    """PSS of all its processes together: a page that they share counts once."""
    process: float
    """Resident set of the largest of them."""


@dataclass(frozen=True)
class Training:
    """One run of a command that writes a line for each of its steps."""

    wall_seconds: float
    """From the start to the end of the process that was started."""
    step_seconds: tuple[float, ...]
    """From the start to when each step's line was there: one stopwatch, whatever the command says of itself."""
    peak: float
    """MiB: the high-water marks of the resident sets of all its processes, as the kernel keeps them, added up. A page
    that two processes share counts twice."""
    others_cores: float
    """As in `Timing`."""


def training(command: Sequence[str], output: Path, lines: Path) -> Training:
    """Run the command, its words into ``output``, and watch ``lines``, which may be the same file, for its steps.

    A step's line is a JSON object with a ``loss``. Raises ``RuntimeError`` when the command fails.
    """
    os.sync()
    lines.unlink(missing_ok=True)
    busy, ours, start = _busy_seconds(), _our_seconds(), time.perf_counter()
    steps: list[float] = []
    peaks: dict[int, int] = {}
    with output.open("w+b") as log, _started(command, log) as process:
        for tick in count():
            ended = process.poll() is not None  # asked first: what is written before the end is read after it
            found = _steps_in(lines)
            steps += [time.perf_counter() - start] * (found - len(steps))
            if ended:
                break
            if tick % _LOOK_EVERY == 0:
                peaks |= dict(_high_water_marks(psutil.Process(process.pid)))
            time.sleep(INTERVAL_SECONDS)
        wall = time.perf_counter() - start
    others = _busy_seconds() - busy - (_our_seconds() - ours)
    cores = max(0.0, others / (time.perf_counter() - start))
    return Training(wall, tuple(steps), sum(peaks.values()) / 2**10, cores)


def _steps_in(lines: Path) -> int:
    text = lines.read_bytes() if lines.exists() else b""
    return sum(line.startswith(b"{") and b'"loss":' in line for line in text.split(b"\n")[:-1])


def _high_water_marks(root: psutil.Process) -> Iterator[tuple[int, int]]:
    """Process id and KiB, of a process and all under it."""
    with suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                # A process that has ended and is not waited for yet has no memory.
                yield from ((process.pid, int(line.split()[1])) for line in status.split("\n") if "VmHWM" in line)


def timing(command: Sequence[str]) -> Timing:
    """Run the command and look at nothing until it has ended. Raises ``RuntimeError`` when it fails."""
    os.sync()  # else this run waits for what the one before it has left to write
    busy, ours, start = _busy_seconds(), _our_seconds(), time.perf_counter()
    with tempfile.TemporaryFile() as log, _started(command, log) as process:
        process.wait()
        wall = time.perf_counter() - start
    others = _busy_seconds() - busy - (_our_seconds() - ours)
    return Timing(wall, max(0.0, others / (time.perf_counter() - start)))


def peak(command: Sequence[str]) -> Peak:
    """Run the command and sample its memory all the while, which slows it down: its time says nothing."""
    tree = largest = 0
    with tempfile.TemporaryFile() as log, _started(command, log) as process:
        while process.poll() is None:
            held = [memory for memory in _memory(psutil.Process(process.pid)) if memory]
            tree = max(tree, sum(memory.pss for memory in held))
            largest = max([largest, *(memory.rss for memory in held)])
            time.sleep(INTERVAL_SECONDS)
    return Peak(tree / 2**20, largest / 2**20)


def _memory(root: psutil.Process) -> Iterator[psutil._pslinux.pfullmem]:
    with suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                yield process.memory_full_info()


@contextmanager
def _started(command: Sequence[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # multiprocessing's fork server outlives the process that started it; as its heir we learn its processor time.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(command, stdout=log, stderr=log)
    yield process
    with suppress(ChildProcessError):
        while True:
            os.wait()
    if process.returncode:
        log.seek(0)
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{log.read().decode(errors='replace')}")


def _busy_seconds() -> float:
    """Of all processors since boot, what the hypervisor took away included."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def _our_seconds() -> float:
    """Processor time of this process and of every process under it that has ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
