"""Child processes that neither outlive us nor lose their exit code."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For ``preexec_fn``: without it a child goes on after ``kill -9`` of its parent, and the next start runs two."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def shell_code(returncode: int) -> int:
    """The exit code as a shell or a container runtime would give it: 128 + n for one that signal n has ended."""
    return returncode if returncode >= 0 else 128 - returncode
