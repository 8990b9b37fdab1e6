"""One container of a pod: waits, runs, ends, starts again."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.fakekube.clock import now
from cluster.fakekube.errors import Json
from cluster.fakekube.pod_env import ConfigError
from cluster.fakekube.processes import Process

LONGEST_BACKOFF = 30
"""Times the first back-off; Kubernetes' five minutes to its ten seconds."""
MESSAGE_BYTES, FALLBACK_BYTES, FALLBACK_LINES = 4096, 2048, 80


@dataclass(frozen=True)
class Launch:
    """Everything that a process needs."""

    argv: list[str]
    env: dict[str, str]
    folder: Path
    log: Path
    message: Path
    """The termination log; its path also marks the process and its children."""


@dataclass
class Container:
    """``prepare`` makes the `Launch` of a restart and raises `ConfigError`; ``pullable`` knows the image."""

    spec: Json
    restart_policy: str
    backoff_seconds: float
    prepare: Callable[[Json, int], Launch]
    pullable: Callable[[str], bool]
    event: Callable[[str, str, str], None]
    process: Process | None = None
    restarts: int = 0
    done: bool = False
    """It has ended and will not start again."""
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Json = field(default_factory=dict)
    kill_reason: str = "Error"
    _launch: Launch | None = None
    _not_before: float = 0.0
    _pulls: int = 0

    @property
    def exit_code(self) -> int | None:
        terminated = self.state.get("terminated")
        return terminated["exitCode"] if terminated else None

    def tick(self, *, stopping: bool) -> None:
        """One look at it: has it ended, may it start?"""
        if self.done:
            return
        if self.process is not None:
            code = self.process.exit_code()
            if code is not None:
                self._end(code, stopping=stopping)
        elif stopping:
            self._give_up()
        elif time.monotonic() >= self._not_before:
            self._try_to_start()

    def _try_to_start(self) -> None:
        if not self.pullable(self.spec["image"]):
            self._refuse_image()
            return
        restart = self.restarts + bool(self.last_state)
        try:
            launch = self.prepare(self.spec, restart)
        except ConfigError as error:
            self._wait("CreateContainerConfigError", str(error))
            self.event("Warning", "Failed", f"Error: {error}")
            return
        self.restarts, self._launch = restart, launch
        launch.log.touch()
        program = launch.argv[0]
        if shutil.which(program, path=launch.env.get("PATH")) is None:
            words = f'exec: "{program}": executable file not found in $PATH'
            launch.message.write_text(f"failed to create containerd task: {words}: unknown")
            self.state = {"running": {"startedAt": now()}}
            self._end(128, stopping=False, reason="StartError")
            return
        self.kill_reason = "Error"
        self.process = Process(launch.argv, launch.env, launch.folder, launch.log, str(launch.message))
        self.state = {"running": {"startedAt": now()}}
        self.event("Normal", "Started", f"Started container {self.spec['name']}")

    def _refuse_image(self) -> None:
        image = self.spec["image"]
        if self._pulls % 2 == 0:
            message = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": not found'
            self._wait("ErrImagePull", message)
            self.event("Warning", "Failed", f'Failed to pull image "{image}": {message}')
        else:
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}"')
            self.event("Normal", "BackOff", f'Back-off pulling image "{image}"')
        self._pulls += 1

    def _wait(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}
        self._not_before = time.monotonic() + self.backoff_seconds

    def _end(self, code: int, *, stopping: bool, reason: str = "") -> None:
        assert self._launch is not None
        self.process = None
        reason = reason or ("Completed" if code == 0 else self.kill_reason)
        started = self.state["running"]["startedAt"]
        ended: Json = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        ended["containerID"] = self.container_id
        if message := self._message(code):
            ended["message"] = message
        self.state = {"terminated": ended}
        again = self.restart_policy == "Always" or (self.restart_policy == "OnFailure" and code != 0)
        self.done = stopping or not again
        if not self.done:
            # The first restart is at once, then the back-off doubles.
            delay = self.backoff_seconds * min(2 ** (self.restarts - 1), LONGEST_BACKOFF) if self.restarts else 0.0
            self.last_state = {"terminated": ended}
            if delay:
                name = self.spec["name"]
                self._wait("CrashLoopBackOff", f"back-off restarting failed container={name}")
                self.event("Warning", "BackOff", f"Back-off restarting failed container {name}")
            self._not_before = time.monotonic() + delay

    def _give_up(self) -> None:
        """It is to end and does not run."""
        self.done = True
        if self.last_state:
            self.state = self.last_state

    def _message(self, code: int) -> str:
        assert self._launch is not None
        file = self._launch.message
        text = file.read_bytes()[:MESSAGE_BYTES].decode(errors="replace") if file.exists() else ""
        if text or code == 0 or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return text
        tail = self._launch.log.read_bytes()[-FALLBACK_BYTES:].decode(errors="replace")
        return "".join(tail.splitlines(keepends=True)[-FALLBACK_LINES:])

    @property
    def container_id(self) -> str:
        text = f"{self._launch.message if self._launch else self.spec['name']}"
        return f"containerd://{hashlib.sha256(text.encode()).hexdigest()}"

    def status(self) -> Json:
        running = "running" in self.state
        image = self.spec["image"]
        started = running or bool(self.last_state) or "terminated" in self.state
        return {
            "name": self.spec["name"],
            "image": image,
            "imageID": f"{image.partition('@')[0]}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"
            if started
            else "",
            "containerID": self.container_id if started else "",
            "restartCount": self.restarts,
            "ready": running,
            "started": running,
            "state": self.state,
            "lastState": self.last_state,
        }
