"""A stage's signs of life in the store: `LiveStatus` around the work, which knows nothing of it but `Progress`.

They are for people, see `pipeline.status`. So the work never waits for them and never fails because of them: a thread
writes what is newest, says once when the store is away, and goes on trying.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import State, Status
from medvl_jobs.errors import MedvlError, PreemptedError
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.tail import Tail, copied_to

log = logging.getLogger(__name__)

LAST_SECONDS = 10.0
"""How long the end of a stage may wait for its last sign of life; a pod of the report has 30 s after SIGTERM."""
AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Course:
    """How far the work is, and how fast it goes. Pure."""

    done: int
    total: int
    loss: float | None
    at: float
    """When it came as far as this."""
    pause: float
    """Seconds between two steps, at most so far."""
    first_done: int
    first_at: float

    @classmethod
    def after(cls, before: Course | None, done: int, total: int, loss: float | None, now: float) -> Course:
        """``now`` in seconds. A step without a log line keeps the loss of the line before.

        The clock starts when the start was told last: after the model was loaded, say.
        """
        if before is None or done <= before.first_done:
            return cls(done, total, loss, now, 0.0, done, now)
        loss = before.loss if loss is None else loss
        at, pause = (now, max(now - before.at, before.pause)) if done != before.done else (before.at, before.pause)
        return cls(done, total, loss, at, pause, before.first_done, before.first_at)

    @property
    def rate(self) -> float | None:
        """A second, since this attempt's first; none before there is a second one."""
        if self.done <= self.first_done or self.at <= self.first_at:
            return None
        return (self.done - self.first_done) / (self.at - self.first_at)

    def left(self, now: float) -> float | None:
        """Seconds to go at that rate; none before there is one, and when all is counted and only the end is to be made.

        It runs down for as long as a step has ever taken, and then waits: what hangs is not nearly done.
        """
        if self.rate is None or self.done >= self.total:
            return None
        return max((self.total - self.done) / self.rate - min(now - self.at, self.pause), 0.0)


class LiveStatus:
    """Within ``with`` it keeps ``status.json`` and ``log.txt`` of a stage fresh; the last ones say how it ended.

    It is the stage's `Progress`. What an earlier attempt has left stays in front of the log, as far as there is room.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        unit: str,
        *,
        every_seconds: float,
        processes: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``prefix`` is `layout.live` of the stage; ``clock`` gives seconds since 1970."""
        self.storage, self.prefix, self.unit = storage, prefix, unit
        self.every_seconds, self.processes, self.clock = every_seconds, processes, clock
        self._tail = Tail()
        self._course: Course | None = None
        self._state: State = "working"
        self._error: dict[str, str | int] | None = None
        self._started = clock()
        self._before: _Before | None = None
        self._stored: bytes | None = None
        self._away = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="live", daemon=True)
        self._streams = ExitStack()

    def __call__(self, done: int, total: int, *, loss: float | None = None) -> None:
        """See `Progress`."""
        self._course = Course.after(self._course, done, total, loss, self.clock())

    def __enter__(self) -> LiveStatus:
        self._streams.enter_context(copied_to(self._tail))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.close()
        if error is None:
            self._state = "done"
        else:
            self._state, self._error = how_it_ended(error)
            self._tail.add(_last_lines(error))
        self._over.set()
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            log.warning("%s/%s may not say how it ended", self.storage.uri, self.prefix)

    def status(self) -> Status:
        """As of now."""
        course, now = self._course, self.clock()  # in this order: the work goes on meanwhile
        rate = course.rate if course else None
        eta_seconds = course.left(now) if course and self._state == "working" else None
        before = self._before or _Before()
        return Status(
            stage=self.prefix.rpartition("/")[2],
            state=self._state,
            done=course.done if course else None,
            total=course.total if course else None,
            unit=self.unit,
            loss=course.loss if course else None,
            rate=None if rate is None else float(f"{rate:.4g}"),
            eta_seconds=None if eta_seconds is None else round(eta_seconds, 1),
            eta=None if eta_seconds is None else _time(now + eta_seconds),
            host=socket.gethostname(),
            processes=self.processes,
            attempt=before.attempts + 1,
            started_at=_time(self._started),
            updated_at=_time(now),
            every_seconds=self.every_seconds,
            error=before.error if self._state == "working" else self._error,
        )

    def _keep_fresh(self) -> None:
        """In the thread. One object of each kind, always the newest: whatever could not be stored is superseded."""
        while not self._over.is_set():
            self._refresh()
            self._over.wait(self.every_seconds)
        deadline = time.monotonic() + LAST_SECONDS
        while not self._refresh() and time.monotonic() + AGAIN_SECONDS < deadline:
            time.sleep(AGAIN_SECONDS)

    def _refresh(self) -> bool:
        """Store log and status; returns whether that went well."""
        try:
            if self._before is None:
                self._before = _Before.read(self.storage, self.prefix, self._started)
            if (text := self._tail.text(self._before.log)) != self._stored:
                self.storage.write_bytes(f"{self.prefix}/{layout.LOG}", text)
                self._stored = text
            self.storage.write_bytes(f"{self.prefix}/{layout.STATUS}", self.status().to_json().encode())
        except Exception as trouble:  # noqa: BLE001  whatever it is, it must not take the work's place in the log
            if not self._away:
                log.warning("status and log are not refreshed in the store, the work goes on: %s", _what(trouble))
            self._away = True
            return False
        if self._away:
            log.info("status and log are refreshed in the store again")
        self._away = False
        return True


@dataclass(frozen=True)
class _Before:
    """What earlier attempts of the same stage have left."""

    attempts: int = 0
    error: dict[str, str | int] | None = None
    log: bytes = b""

    @classmethod
    def read(cls, storage: Storage, prefix: str, now: float) -> _Before:
        status = read_status(storage, prefix)
        if status is None:
            return cls()
        key = f"{prefix}/{layout.LOG}"
        text = storage.read_bytes(key) if storage.exists(key) else b""
        torn = b"\n" if text and not text.endswith(b"\n") else b""
        line = f"——— attempt {status.attempt + 1}, {_time(now):%Y-%m-%d %H:%M:%S} UTC, {socket.gethostname()} ———\n"
        return cls(status.attempt, status.error, text + torn + line.encode())


def read_status(storage: Storage, prefix: str) -> Status | None:
    """What the stage said last, if it ever did. Raises what the store raises."""
    key = f"{prefix}/{layout.STATUS}"
    return Status.from_json(storage.read_bytes(key)) if storage.exists(key) else None


def declare_ended(storage: Storage, prefix: str, error: MedvlError) -> None:
    """For who sees the end of a stage: say it for one that could not, such as one that was killed. Never raises."""
    try:
        status = read_status(storage, prefix) or _unseen(prefix, _time(time.time()))
        if status.state in {"working", "done"}:  # the first of several pods may be done when another one fails
            state, described = how_it_ended(error)
            ended = status.model_copy(update={"state": state, "error": described, "eta": None, "eta_seconds": None})
            storage.write_bytes(f"{prefix}/{layout.STATUS}", ended.to_json().encode())
    except MedvlError as trouble:
        log.warning("%s/%s may not say how it ended: %s", storage.uri, prefix, trouble.what)


def _unseen(prefix: str, now: datetime) -> Status:
    """Of a stage that ended before its first sign of life."""
    return Status(
        stage=prefix.rpartition("/")[2],
        state="working",
        unit="",
        host="",
        processes=1,
        started_at=now,
        updated_at=now,
        every_seconds=0.0,
    )


def how_it_ended(error: BaseException) -> tuple[State, dict[str, str | int]]:
    """``stopped`` by a signal or Ctrl-C, else ``failed``; and the error in our words."""
    if isinstance(error, MedvlError):
        return "stopped" if isinstance(error, PreemptedError) else "failed", error.as_dict()
    if not isinstance(error, Exception):
        return "stopped", PreemptedError("stopped by a signal", remedy="start the same command again").as_dict()
    return "failed", MedvlError(_what(error), remedy="the log has the traceback").as_dict()


def _last_lines(error: BaseException) -> str:
    """What the command line prints after the block."""
    if isinstance(error, MedvlError):
        return f"medvl: {error}\n"
    if not isinstance(error, Exception):
        return "medvl: stopped by a signal\n"
    return "".join(traceback.format_exception(error))


def _what(error: Exception) -> str:
    return error.what if isinstance(error, MedvlError) else f"{type(error).__name__}: {error}"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds), UTC)
