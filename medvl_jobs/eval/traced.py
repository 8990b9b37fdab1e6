"""Text that remembers where each of its characters came from."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable

Piece = tuple[str, int, int]
"""A replacement, and the characters ``[start, end)`` of the text before it that it stands for."""


class Traced:
    """A text made from another one by replacements: each character knows those of the original that it stands for.

    ``starts[i]`` and ``ends[i]`` bound those of ``chars[i]``; both never decrease.
    """

    __slots__ = ("chars", "ends", "starts")

    def __init__(self, chars: str, starts: array[int], ends: array[int]) -> None:
        self.chars = chars
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, chars: str, offset: int = 0) -> Traced:
        """A text that is its own original, or what follows the first ``offset`` characters of it."""
        return cls(
            chars,
            array("l", range(offset, offset + len(chars))),
            array("l", range(offset + 1, offset + len(chars) + 1)),
        )

    def part(self, start: int, end: int) -> Traced:
        """Characters ``[start, end)``."""
        return Traced(self.chars[start:end], self.starts[start:end], self.ends[start:end])

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Which characters of the original the (at least one) characters ``[start, end)`` stand for."""
        return self.starts[start], self.ends[end - 1]

    def sub(self, pattern: re.Pattern[str], replace: str | Callable[[re.Match[str]], Iterable[Piece]]) -> Traced:
        """Like ``pattern.sub``. A function returns pieces, so that each word of a replacement keeps its own place."""
        pieces: list[Piece] = []
        for match in pattern.finditer(self.chars):
            pieces += [(replace, match.start(), match.end())] if isinstance(replace, str) else replace(match)
        return self.replaced(pieces) if pieces else self

    def replaced(self, pieces: Iterable[Piece]) -> Traced:
        """With each piece in place of its characters; the pieces are in order and at least one character long."""
        chars: list[str] = []
        starts, ends, at = array("l"), array("l"), 0
        for text, start, end in pieces:
            chars += [self.chars[at:start], text]
            first, last = self.origin(start, end)
            starts += self.starts[at:start] + array("l", [first]) * len(text)
            ends += self.ends[at:start] + array("l", [last]) * len(text)
            at = end
        chars.append(self.chars[at:])
        return Traced("".join(chars), starts + self.starts[at:], ends + self.ends[at:])
