"""What eval asks of anything that can answer a question about an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Answer:
    """The text of one answer and how it ended."""

    text: str
    new_tokens: int
    finish: Literal["stop", "length", "failed"]
    """``failed``: refused for good, another attempt would end the same way; the text is empty."""
    why: str = ""
    """Of a failed one, for a person."""


class Engine(Protocol):
    """Greedy answers to one question, which it is opened with. An answer depends on its own image alone."""

    load_seconds: float
    """Reading the weights, here or in a server that this engine has started."""
    preparation_seconds: float
    """Making the loaded model ready: attaching the adapter, the canary."""
    steps: int
    """Forward batches, or requests, until now."""

    def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
        """Each encoded image's number in ``images``, from 0, and its answer, as they finish: in any order, each once.

        ``images`` is read lazily, so that as many are under way as suits the engine, and no more lie in memory. One
        image that cannot be answered is a `failed` answer; what would fail all of them is raised as a `MedvlError`.
        """
        ...

    def close(self) -> None:
        """Free what it holds. It is called once, also after an error."""
        ...
