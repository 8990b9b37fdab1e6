"""The models are loaded beside the server: it says that it lives from the start, and that it is ready at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from medvl_jobs.chat.examples import Example
from medvl_jobs.chat.models import ModelPair

log = logging.getLogger(__name__)


class Load(Protocol):
    """What loads: examples are handed over as soon as they are there."""

    def __call__(self, show: Callable[[list[Example]], None]) -> ModelPair:
        """In a thread of its own."""
        ...


class Loading:
    """Either under way, or a pair, or an error."""

    def __init__(self, load: Load, failed: Callable[[], None]) -> None:
        """``failed`` is called from the loading thread, when ``error`` is set."""
        self._load, self._failed = load, failed
        self.pair: ModelPair | None = None
        self.examples: list[Example] = []
        self.error: BaseException | None = None

    def start(self) -> None:
        """A daemon thread: sixty gigabytes half read must not keep the process from ending."""
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self.pair = self._load(self._show)
        except BaseException as error:  # noqa: BLE001  raised again by whoever serves
            self.error = error
            self._failed()
        else:
            log.info("ready after %.0f s: %s", time.monotonic() - started, self.pair.where)

    def _show(self, examples: list[Example]) -> None:
        self.examples = examples
