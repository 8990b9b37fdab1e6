"""Signs that two texts are not of one kind: another script, a think block. Pure.

A script is not a language: German beside English is not seen.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache

_SCRIPTS = {
    "LATIN": "Latin", "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic", "GREEK": "Greek", "ARABIC": "Arabic", "HEBREW": "Hebrew", "DEVANAGARI": "Devanagari",
    "THAI": "Thai",
}  # fmt: skip
_THINK = re.compile(r"\s*<think>")


def script(text: str) -> str | None:
    """The script of most letters; none where there is no letter. "CT" in a Chinese sentence changes nothing."""
    letters: Counter[str] = Counter()
    for letter, many in Counter(text).items():
        if letter.isalpha():
            letters[_script_of(letter)] += many
    return letters.most_common(1)[0][0] if letters else None


@cache
def _script_of(letter: str) -> str:
    word = unicodedata.name(letter, "OTHER").partition(" ")[0]
    return _SCRIPTS.get(word, "another")


def thinks(text: str) -> bool:
    """Whether the text begins with a think block, closed or not, empty or not."""
    return _THINK.match(text) is not None
