"""Who is next: questions in line, each answered by both models in threads of its own, told event by event.

An event is what the page gets as one line of JSON:

    {"event": "waiting", "ahead": 2}                                      whenever it changes, and now and then
    {"event": "start", "side": "base"}
    {"event": "piece", "side": "base", "text": "The im", "new_tokens": 2}
    {"event": "end", "side": "base", "text": …, "new_tokens": …, "finish": "stop", "seconds": 1.2}
    {"event": "trouble", "side": "base", "words": …}                      in place of "end"
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from medvl_jobs.chat.models import SIDES, ModelPair, Question, Side, UnansweredError

log = logging.getLogger(__name__)

Event = dict[str, Any]

LOOK_SECONDS = 0.5
"""How often it is looked whether whoever asked is still there."""
SAY_AGAIN_SECONDS = 15.0
"""Proxies close a connection on which nothing comes."""
LEAVE_SECONDS = 5.0
"""How long an answer may take to notice that it is called off: a token, in process."""


class BusyError(Exception):
    """The line is full; the text says so to whoever asked."""


class Desk:
    """Answers questions, ``pair.at_once`` at a time. All but the threads that it starts run in one event loop."""

    def __init__(self, pair: ModelPair, line: int) -> None:
        """``line``: questions that may wait beside those that are answered."""
        self._pair, self._places = pair, line + pair.at_once
        self._line: list[object] = []
        """Those that are answered, then those that wait, in the order in which they came."""
        self._free = asyncio.Semaphore(pair.at_once)
        self._stops: dict[threading.Thread, threading.Event] = {}
        self._called_off = False

    async def answer(self, question: Question, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Event]:
        """All events of one question. ``gone`` says whether nobody listens any more; then the models stop as well.

        Raises `BusyError` before the first event.
        """
        if len(self._line) >= self._places:
            raise BusyError(f"{len(self._line)} questions are being answered or wait. Ask again in a minute.")
        place = object()
        self._line.append(place)
        turn = asyncio.ensure_future(self._free.acquire())
        threads: list[threading.Thread] = []
        try:
            told, told_at = 0, time.monotonic()
            while not turn.done():
                ahead = self._line.index(place)
                if ahead != told or time.monotonic() > told_at + SAY_AGAIN_SECONDS:
                    yield {"event": "waiting", "ahead": ahead}
                    told, told_at = ahead, time.monotonic()
                await asyncio.wait({turn}, timeout=LOOK_SECONDS)
                if self._called_off or await gone():
                    return
            events: asyncio.Queue[Event | None] = asyncio.Queue()
            stop = threading.Event()
            threads = self._start(question, events, stop, place)
            running = len(threads)
            while running:
                try:
                    # Trap: Python 3.11's wait_for loses a cancellation that comes together with an event.
                    async with asyncio.timeout(LOOK_SECONDS):
                        event = await events.get()
                except TimeoutError:
                    if await gone():
                        return
                    continue
                if event is None:
                    running -= 1
                else:
                    yield event
        finally:
            if threads:
                stop.set()  # the threads give their place up themselves, when they have ended
            else:
                self._leave(place, turn)

    def _leave(self, place: object, turn: asyncio.Future[Any]) -> None:
        self._line.remove(place)
        if turn.done() and not turn.cancelled():
            self._free.release()
        turn.cancel()

    def _start(
        self, question: Question, events: asyncio.Queue[Event | None], stop: threading.Event, place: object
    ) -> list[threading.Thread]:
        """One for each side."""
        loop = asyncio.get_running_loop()
        left = len(SIDES)

        def ended(thread: threading.Thread) -> None:
            nonlocal left
            self._stops.pop(thread, None)
            events.put_nowait(None)
            left -= 1
            if not left:
                self._line.remove(place)
                self._free.release()

        def work(side: Side) -> None:
            try:
                self._one(side, question, lambda event: _hand(loop, events.put_nowait, event), stop)
            finally:
                _hand(loop, ended, threading.current_thread())

        # Daemons: a model that hangs must not keep the process from ending.
        threads = [threading.Thread(target=work, args=(side,), daemon=True) for side in SIDES]
        for thread in threads:
            self._stops[thread] = stop
            thread.start()
        return threads

    def _one(self, side: Side, question: Question, tell: Callable[[Event], None], stop: threading.Event) -> None:
        tell({"event": "start", "side": side})
        started = time.monotonic()
        try:
            ending = self._pair.answer(
                side,
                question,
                lambda piece: tell(
                    {"event": "piece", "side": side, "text": piece.text, "new_tokens": piece.new_tokens}
                ),
                stop,
            )
        except UnansweredError as error:
            log.warning("the %s model did not answer: %s", side, error)
            tell({"event": "trouble", "side": side, "words": str(error)})
        except Exception:
            log.exception("the %s model did not answer", side)
            words = "The model failed at this question. The server's log says more; other questions may go well."
            tell({"event": "trouble", "side": side, "words": words})
        else:
            seconds = round(time.monotonic() - started, 2)
            tell({"event": "end", "side": side, **vars(ending), "seconds": seconds})

    def call_off(self) -> None:
        """Answers under way end where they are, and what waits gets none."""
        self._called_off = True
        for stop in list(self._stops.values()):
            stop.set()

    def close(self) -> None:
        """Call all off, and wait for the answers under way for `LEAVE_SECONDS` at most."""
        self.call_off()
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in list(self._stops):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._pair.close()


def _hand(loop: asyncio.AbstractEventLoop, what: Callable[[Any], None], value: Any) -> None:
    """Call ``what`` in the loop, from a thread; nowhere when the loop has ended."""
    try:
        loop.call_soon_threadsafe(what, value)
    except RuntimeError:
        log.debug("nobody listens any more")
