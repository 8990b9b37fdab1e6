"""What can be wrong with a text that a model is to read or to say."""

from __future__ import annotations

import hashlib
import re

_COMMANDS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>"  # <|im_end|>, <|image_pad|>: the tokenizer would read the caption as a change of speaker
    r"|</?(?:think|tool_call|tool_response)>"
    r"|<(?:image|video|audio)>"  # LLaMA-Factory counts these, and stops when there are more than files
    r"|[\x00-\x08\x0e-\x1f\x7f-\x9f]"
)
_PLACEHOLDERS = re.compile(
    r"(?:n/?a|none|null|nil|nan|unknown|untitled|undefined|todo|tbd|test|caption|description|no (?:caption|description)"
    r"(?: (?:is )?(?:available|provided|given))?|(?:an? |the )?(?:medical )?(?:image|picture|scan|figure)|[\W\d_]+)\W*",
    re.IGNORECASE,
)
_APOLOGIES = re.compile(
    r"\bas an ai\b|\bi(?:'|’)?m sorry\b|\bi am sorry\b|\bi (?:cannot|can(?:'|’)t|am unable to|am not able to)\b"
    r"|\b(?:unable|not possible) to (?:provide|generate|describe|determine the content)"
    r"|\bplease (?:provide|upload)\b|\bno image (?:was|is|has been) (?:provided|given|attached)",
    re.IGNORECASE,
)

UNKNOWN_LANGUAGE = "unknown"
"""What stands in the place of a language where a caption is too short, or too odd, to tell."""


_APOLOGETIC = ("as an ai", "sorry", "i can", "i am ", "unable", "not possible", "please", "no image")
"""One of these is in every apology: to look for them takes a tenth of the time."""


def command_in(text: str) -> re.Match[str] | None:
    """The first thing in ``text`` that a tokenizer, or LLaMA-Factory, would not read as text."""
    return _COMMANDS.search(text) if "<" in text or not text.isprintable() else None


def is_unicode(text: str) -> bool:
    """Whether the text can be written: JSON lets half a surrogate pair through."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def says_nothing(caption: str) -> bool:
    """Whether the text is a placeholder, or the apology of the model that was to write the caption."""
    lowered = caption.lower()
    apologetic = any(words in lowered for words in _APOLOGETIC)
    return bool(_PLACEHOLDERS.fullmatch(caption) or (apologetic and _APOLOGIES.search(caption)))


def wording(caption: str) -> int:
    """64 bits that are equal for captions that differ in case, digits and punctuation only.

    "Slice 12 of the chest." and "slice 13 of the chest" say the same of two images.
    """
    letters = re.sub(r"[\W\d_]+", " ", caption.casefold()).strip()
    return int.from_bytes(hashlib.blake2b(letters.encode(), digest_size=8).digest(), "big")
