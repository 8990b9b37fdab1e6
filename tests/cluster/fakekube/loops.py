"""Level-triggered control loops."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from cluster.fakekube.errors import ApiError
from cluster.fakekube.store import Store

IDLE_SECONDS = 0.1
"""The longest rest: timers, such as a back-off, are noticed this late."""


class Loop:
    """Calls ``step`` after every change of the store, and now and then without one."""

    def __init__(self, name: str, store: Store, step: Callable[[], None]) -> None:
        self._store, self._step = store, step
        self._stopped = False
        self.errors: list[str] = []
        """What went wrong in ``step``: a fault of this fake, which must fail the test."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        with self._store.changed:
            self._store.changed.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped:
            version = self._store.version
            try:
                self._step()
            except ApiError as error:
                if error.code not in (404, 409):  # lost a race; the next step sees it
                    self.errors.append(traceback.format_exc())
            except Exception:  # noqa: BLE001 — kept for the test
                self.errors.append(traceback.format_exc())
            if len(self.errors) > 20:
                return
            self._store.wait(version, IDLE_SECONDS)
