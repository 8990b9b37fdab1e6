"""What the page asks of anything that holds the base and the tuned model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Side = Literal["base", "tuned"]
Finish = Literal["stop", "length", "stopped"]
"""``stopped``: called off, by whoever asked or by the end of the server."""
SIDES: tuple[Side, ...] = ("base", "tuned")
"""In the order of the page."""


@dataclass(frozen=True)
class Question:
    """An image, what is asked about it, and how the answer is made."""

    image: bytes
    """In its stored form, see `model.images`."""
    text: str
    max_new_tokens: int
    temperature: float
    """0: greedy, which is what eval does."""


@dataclass(frozen=True)
class Piece:
    """What has come of an answer since the last piece."""

    text: str
    new_tokens: int
    """Of the whole answer so far; 0 where a server does not tell."""


@dataclass(frozen=True)
class Ending:
    """A whole answer."""

    text: str
    new_tokens: int
    finish: Finish


class ModelPair(Protocol):
    """Both models, loaded."""

    at_once: int
    """Questions that it can work on at a time."""
    where: str
    """For people: what answers, and on what."""

    def answer(self, side: Side, question: Question, say: Callable[[Piece], None], stop: threading.Event) -> Ending:
        """Answer, in this thread, while another thread answers for the other side.

        Each piece goes to ``say`` as it comes, until ``stop`` is set.
        Raises `UnansweredError` for what whoever asked can do something about.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class UnansweredError(Exception):
    """This question gets no answer; the text says why, and what to do, to whoever asked."""
