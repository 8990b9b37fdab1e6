"""Several answers on one model, token by token: whoever has the turn computes, and passes it on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """Threads in a ring, of which one works."""

    def __init__(self) -> None:
        """Nobody is in it."""
        self._ring: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """In the ring, with the turn; gives what passes it on, which returns when it has come round again."""
        place = object()
        with self._changed:
            self._ring.append(place)
            self._wait(place)
        try:
            yield lambda: self._pass_on(place)
        finally:
            with self._changed:
                self._ring.remove(place)
                self._changed.notify_all()

    def _pass_on(self, place: object) -> None:
        with self._changed:
            self._ring.rotate(-1)
            self._changed.notify_all()
            self._wait(place)

    def _wait(self, place: object) -> None:
        self._changed.wait_for(lambda: self._ring[0] is place)
