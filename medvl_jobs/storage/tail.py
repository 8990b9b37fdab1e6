"""The last lines that a process has written, while they go where they always went."""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

LIMIT_BYTES = 256 * 1024
_PIECES = 8192
_PIECE_CHARACTERS = 16 * 1024
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?!\n)", re.MULTILINE)
"""What a progress bar has drawn and then drawn over."""


class Tail:
    """The end of a text that only grows; adding is cheap, from any thread.

    No lock: a process that is forked while one is held would wait for it for ever.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Keeps ``limit_bytes`` in UTF-8, if they are in no more than 8192 pieces."""
        self.limit_bytes = limit_bytes
        self._pieces: deque[str] = deque(maxlen=_PIECES)

    def add(self, text: str) -> None:
        """Append; of a very long piece its end."""
        self._pieces.append(text[-_PIECE_CHARACTERS:])

    def text(self, before: bytes = b"") -> bytes:
        """``before`` and all that was added, or the last whole lines of it that fit the limit."""
        added = _OVERWRITTEN.sub("", "".join(list(self._pieces)))
        whole = before + added.encode("utf-8", errors="replace")
        if len(whole) <= self.limit_bytes:
            return whole
        end = whole[-self.limit_bytes :]
        line = end.find(b"\n") + 1
        return end[line:] if line else end.decode("utf-8", errors="ignore").encode()


@contextmanager
def copied_to(tail: Tail) -> Iterator[None]:
    """In the block, what this process logs or writes to stdout and stderr goes to ``tail`` as well.

    What C code and child processes write does not: they have the files, not Python's streams.
    """
    handler = _ToTail(tail)
    streams = sys.stdout, sys.stderr
    logging.getLogger().addHandler(handler)
    sys.stdout, sys.stderr = _Copied(sys.stdout, tail), _Copied(sys.stderr, tail)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        logging.getLogger().removeHandler(handler)


class _ToTail(logging.Handler):
    """The log's own stream was taken before ours, so it is heard here."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.tail = tail
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.tail.add(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001  logging's own rule: a message that cannot be formatted ends no work
            self.handleError(record)


class _Copied:
    """A stream that tells `Tail` what is written to it, and is the stream in all else."""

    def __init__(self, stream: TextIO, tail: Tail) -> None:
        self._stream, self._tail = stream, tail

    def write(self, text: str) -> int:
        self._tail.add(text)
        return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
