"""Where an answer begins, after the thoughts that a reasoning template or model puts before it."""

from __future__ import annotations


def answer_start(text: str) -> int:
    """The first character after a leading ``<think>…</think>`` and its blanks: 0 where there is none.

    The opening tag may be missing, because some templates make it a part of the prompt. A thought that does not end has
    no answer after it: then it is the text's length.
    """
    before, closing, after = text.partition("</think>")
    begins = before.lstrip().startswith("<think>")
    if closing and (begins or "<think>" not in before):
        return len(text) - len(after.lstrip())
    return len(text) if begins else 0


def without_think(text: str) -> str:
    """The text without its leading thoughts."""
    return text[answer_start(text) :]
