"""Watches, reduced to the one thing that a level-triggered reader needs: that something has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kubernetes import watch

log = logging.getLogger(__name__)

WATCH_SECONDS = 300
"""After this time the server ends a watch, and it is begun again."""
CONNECT_SECONDS = 10
PAUSE_SECONDS = 1.0
"""Between two watches of one kind; changes come in flocks, of which a tenth is waited for."""

Lister = tuple[Callable[..., Any], tuple[str, ...]]
"""A list function of the client, and its words."""


class Bell:
    """Rings at every change that a watch reports. It says *that* something changed; what, is looked up anew.

    So a watch that breaks or expires costs nothing but time: it is begun again, and whoever waits looks anyway after a
    while.
    """

    def __init__(self) -> None:
        """Not rung yet."""
        self._rung, self._closed = threading.Event(), threading.Event()

    @contextmanager
    def watching(self, listers: Sequence[Lister], selector: str) -> Iterator[Bell]:
        """Listen to all of them, each in a thread, for as long as the block lasts."""
        for function, words in listers:
            threading.Thread(target=self._watch, args=(function, words, selector), daemon=True).start()
        try:
            yield self
        finally:
            self._closed.set()

    def wait(self, seconds: float) -> None:
        """Return at the next change, at the latest after so many seconds."""
        if self._rung.wait(seconds):
            self._closed.wait(PAUSE_SECONDS / 10)
        self._rung.clear()

    def _watch(self, function: Callable[..., Any], words: tuple[str, ...], selector: str) -> None:
        limits = {"timeout_seconds": WATCH_SECONDS, "_request_timeout": (CONNECT_SECONDS, WATCH_SECONDS + 30)}
        while not self._closed.is_set():
            try:
                for _ in watch.Watch().stream(function, *words, label_selector=selector, **limits):
                    self._rung.set()
                    if self._closed.is_set():
                        return
            except Exception as error:  # noqa: BLE001  410 Gone, a cut connection, a server that restarts: all the same
                log.debug("a watch ended: %s", error)
            self._rung.set()
            self._closed.wait(PAUSE_SECONDS)
