"""What eval asks of anything that can answer a question about an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Answer:
    """The text of one answer and how it ended."""

    text: str
    new_tokens: int
    finish: Literal["stop", "length"]


class Engine(Protocol):
    """Greedy answers to the run's one question. What it answers to an image does not depend on the other images."""

    load_seconds: float
    """Reading the weights."""
    preparation_seconds: float
    """Making the loaded model ready: attaching the adapter, moving to the device."""

    def answer(self, images: Sequence[bytes]) -> list[Answer]:
        """Answer for each encoded image, in order."""
        ...
