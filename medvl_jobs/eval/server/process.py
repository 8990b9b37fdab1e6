"""A server that this process starts, watches and ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from medvl_jobs.errors import GaveUpError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.eval.server.client import alive
from medvl_jobs.eval.server.command import HOST
from medvl_jobs.processes import die_with_parent, shell_code
from medvl_jobs.settings.environment import foreign_environment

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL."""
LAST_LINES = 25
"""Of its log, in the error when it dies."""
NO_TELEMETRY = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class ServerProcess:
    """A process and its children, in a group of their own; each line that it prints goes to our log."""

    def __init__(self, words: Sequence[str], port: int) -> None:
        """Start it. Raises `MissingInputError` when there is no such program, `SettingsError` when it is none."""
        self.url = f"http://{HOST}:{port}"
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._ready = False
        log.info("starting %s", " ".join(words))
        remedy = "set eval.server.command, or eval.server.url to a server that runs; the eval image for GPUs has vLLM"
        try:
            self._process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, encoding="utf-8", errors="replace",
                env=foreign_environment(NO_TELEMETRY),
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
        except FileNotFoundError as error:
            raise MissingInputError("there is no server to start", where=words[0], remedy=remedy) from error
        except OSError as error:
            what = f"the server cannot be started: {error.strerror}"
            raise SettingsError(what, where=words[0], remedy=remedy) from error
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            log.info("server | %s", self._lines[-1])

    def wait_ready(self, timeout_seconds: float) -> None:
        """Until it answers. Raises `GaveUpError` when it dies before, `TryAgainError` when it takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not alive(f"{self.url}/health"):
            self.watch()
            if time.monotonic() > deadline:
                raise TryAgainError(
                    f"the server was not ready after {timeout_seconds:g} s; its last lines:\n{self._last_lines()}",
                    where=self.url,
                    remedy="raise eval.server.start_timeout_seconds",
                )
            time.sleep(POLL_SECONDS)
        self.watch()  # somebody else may have answered on its port
        self._ready = True

    def watch(self) -> None:
        """Raises when it has ended: `GaveUpError` while it started, `TryAgainError` when it was ready once."""
        code = self._process.poll()
        if code is None:
            return
        self._reader.join(timeout=1.0)
        how = f"ended with {shell_code(code)}" + (f" ({signal.Signals(-code).name})" if -code in _SIGNALS else "")
        if self._ready:
            what = f"the server {how} in the middle of the evaluation; its last lines:\n{self._last_lines()}"
            raise TryAgainError(what, where=self.url, remedy="what is answered is kept: start the same command again")
        what = f"the server {how} before it was ready; its last lines:\n{self._last_lines()}"
        remedy = "correct what it says: eval.server.arguments has more words for its command line"
        raise GaveUpError(what, where=self.url, remedy=remedy)

    def close(self) -> None:
        """SIGTERM, and SIGKILL after `GRACE_SECONDS`, to it and its children. Twice is as good as once."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._signal(signal.SIGKILL)  # also to children that have outlived it
        self._process.wait()
        self._reader.join(timeout=5.0)
        if self._process.stdout and not self._reader.is_alive():
            self._process.stdout.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_lines(self) -> str:
        return "\n".join(f"    {line}" for line in self._lines) or "    (it said nothing)"


_SIGNALS = frozenset(signal.Signals)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
