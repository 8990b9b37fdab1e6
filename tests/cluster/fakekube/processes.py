"""Real processes in place of containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# The kernel kills the process when the thread that started it ends, so nothing outlives a test run that was killed.
# A program of its own instead of preexec_fn, which is not safe beside threads. SIGPIPE: Python ignores it, programs
# that it becomes would too.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


KILL_SECONDS = 30.0


class Process:
    """One container's first process, in a group of its own. ``marker`` is a text that only its environment holds."""

    def __init__(self, argv: list[str], env: dict[str, str], folder: Path, log: Path, marker: str) -> None:
        self._marker = marker
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; 128+n after signal n. What it left behind is killed, as with a container."""
        code = self._process.poll()
        if code is None:
            return None
        self._kill_all()
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """To the first process only."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """The whole container at once."""
        self.signal(signal.SIGKILL)
        self._kill_all()

    def wait(self) -> None:
        self._process.wait()

    def _kill_all(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while self._kill_marked() and time.monotonic() < deadline:
            time.sleep(0.005)  # they die a moment after the signal, and may have forked just before it

    def _kill_marked(self) -> bool:
        """Kill what has the marker in its environment; whether there was anything."""
        marker, found = self._marker.encode(), False
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if marker in (entry / "environ").read_bytes():
                        found = True
                        os.kill(int(entry.name), signal.SIGKILL)
        return found
