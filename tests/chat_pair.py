"""Two models that say what a test tells them to, as slowly as it wants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from medvl_jobs.chat.models import Ending, Piece, Question, Side


@dataclass
class Told:
    """A pair whose answers come word by word; ``go`` set, or each word waits for it."""

    words: dict[Side, str] = field(default_factory=lambda: {"base": "grey thing", "tuned": "a chest CT"})
    at_once: int = 1
    where: str = "in a test"
    errors: dict[Side, Exception] = field(default_factory=dict)
    go: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[Side, Question]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    stopped: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def answer(self, side: Side, question: Question, say: Callable[[Piece], None], stop: threading.Event) -> Ending:
        with self.lock:
            self.asked.append((side, question))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return self._answer(side, say, stop)
        finally:
            with self.lock:
                self.under_way -= 1

    def _answer(self, side: Side, say: Callable[[Piece], None], stop: threading.Event) -> Ending:
        if side in self.errors:
            raise self.errors[side]
        said = ""
        for number, word in enumerate(self.words[side].split(" "), start=1):
            while not self.go.wait(0.01) and not stop.is_set():
                pass
            if stop.is_set():
                with self.lock:
                    self.stopped += 1
                return Ending(said, number, "stopped")
            piece = f" {word}" if said else word
            said += piece
            say(Piece(piece, number))
        return Ending(said, len(self.words[side].split(" ")), "stop")

    def close(self) -> None:
        self.closed = True
