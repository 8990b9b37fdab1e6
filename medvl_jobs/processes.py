"""Processes: how many may run, children that neither outlive us nor lose their exit code, and a job's last words."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processors() -> int:
    """Processors that this process may use: the affinity mask, or the quota of the container when that is less."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return available  # no cgroup of version 2: not a container, or an old one
    return available if quota == "max" else max(1, min(available, int(quota) // int(period)))


def die_with_parent() -> None:
    """For ``preexec_fn``: without it a child goes on after ``kill -9`` of its parent, and the next start runs two."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_last_words(text: str, termination_log: Path) -> None:
    """Write what Kubernetes shows as the pod's reason. A laptop has no ``/dev/termination-log``, and gets none."""
    if not termination_log.exists() and termination_log.parent == Path("/dev"):
        return
    try:
        termination_log.write_text(text, encoding="utf-8")
    except OSError as unwritable:  # it must not take the place of the error that it was to report
        print(f"medvl: the termination log cannot be written: {unwritable}", file=sys.stderr)


def shell_code(returncode: int) -> int:
    """The exit code as a shell or a container runtime would give it: 128 + n for one that signal n has ended."""
    return returncode if returncode >= 0 else 128 - returncode
