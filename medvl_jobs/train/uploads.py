"""Checkpoints on their way to the store, while training goes on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from medvl_jobs.errors import TryAgainError
from medvl_jobs.train.checkpoints import CheckpointStore

log = logging.getLogger(__name__)


def back_off_seconds(failures: int) -> float:
    """5 s after the first failure in a row, twice that after the next, a minute at most."""
    return min(5.0 * 2 ** (failures - 1), 60.0)


class Uploads:
    """One checkpoint is being stored and at most one waits, the newest. In one background thread.

    A folder is removed from this machine when it is stored, or left out for a newer one. `TryAgainError` is borne for
    ``patience_seconds`` without a checkpoint stored; after that, and after any other error, nothing more is stored.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        *,
        patience_seconds: float,
        back_off: Callable[[int], float] = back_off_seconds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``back_off`` gives the seconds to wait after so many failures in a row."""
        self.checkpoints, self.patience_seconds = checkpoints, patience_seconds
        self._back_off, self._clock = back_off, clock
        self._changed = threading.Condition()  # guards what follows
        self._thread: threading.Thread | None = None
        self._waiting: tuple[Path, int] | None = None
        self._storing = self._closed = False
        self._failure: Exception | None = None
        # The thread's own:
        self._failures = 0
        self._failing_since: float | None = None

    def put(self, folder: Path, step: int) -> None:
        """Store a checkpoint soon; one that still waits is left out."""
        with self._changed:
            left_out, self._waiting = self._waiting, (folder, step)
            if self._thread is None:
                # Only now: the loader's workers are forked from a process with one thread then.
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if left_out:
            _leave_out(*left_out)

    def look(self) -> tuple[bool, Exception | None]:
        """Whether something is still to be stored, and what has ended the uploads."""
        with self._changed:
            return self._failure is None and (self._storing or self._waiting is not None), self._failure

    def wait(self, seconds: float) -> None:
        """Until all is stored or the uploads have failed, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not (self._storing or self._waiting), timeout=seconds)

    def close(self) -> None:
        """Begin nothing more, and wait for the checkpoint that is under way, unless it waits for others.

        A training that has failed removes its scratch folder next. A thread that looked into it only then would find
        some files of a checkpoint, and its manifest would call them the whole.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                self._store(*self._next())
        except _ClosedError:
            pass
        except Exception as error:  # noqa: BLE001  it is raised at the end of the step, on the main thread
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> tuple[Path, int]:
        with self._changed:
            self._storing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed or self._waiting is None:
                raise _ClosedError
            following, self._waiting, self._storing = self._waiting, None, True
            return following

    def _store(self, folder: Path, step: int) -> None:
        while True:
            try:
                self.checkpoints.save(folder, step, self._pause)
            except TryAgainError as error:
                self._bear(error, step)
            else:
                self._failures, self._failing_since = 0, None
                _remove(folder)
                return
            if self._pause(self._back_off(self._failures)):
                _leave_out(folder, step)
                return

    def _bear(self, error: TryAgainError, step: int) -> None:
        now = self._clock()
        self._failures += 1
        self._failing_since = now if self._failing_since is None else self._failing_since
        if (failing_seconds := now - self._failing_since) >= self.patience_seconds:
            what = f"no checkpoint could be stored for {failing_seconds / 60:.0f} minutes: {error.what}"
            raise TryAgainError(what, where=error.where, remedy=error.remedy) from error
        log.warning("the checkpoint of step %d is not stored yet, training goes on: %s", step, error.what)

    def _pause(self, seconds: float) -> bool:
        """Returns whether a newer one waits."""
        with self._changed:
            if self._changed.wait_for(lambda: self._closed, timeout=seconds):
                raise _ClosedError
            return self._waiting is not None


def _leave_out(folder: Path, step: int) -> None:
    log.warning("the checkpoint of step %d is left out: a newer one is there", step)
    _remove(folder)


def _remove(folder: Path) -> None:
    """What cannot be removed goes with the training's scratch folder."""
    shutil.rmtree(folder, ignore_errors=True)


class _ClosedError(Exception):
    """Nobody waits for the uploads any more."""
