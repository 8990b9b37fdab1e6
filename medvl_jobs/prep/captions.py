"""What can be wrong with a caption that is otherwise sound text."""

from __future__ import annotations

import hashlib
import re

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


def says_nothing(caption: str) -> bool:
    """Whether the text is a placeholder, or the apology of the model that was to write the caption."""
    return bool(_PLACEHOLDERS.fullmatch(caption) or _APOLOGIES.search(caption))


def wording(caption: str) -> bytes:
    """8 bytes that are equal for captions that differ in case, digits and punctuation only.

    "Slice 12 of the chest." and "slice 13 of the chest" say the same of two images.
    """
    letters = re.sub(r"[\W\d_]+", " ", caption.casefold()).strip()
    return hashlib.blake2b(letters.encode(), digest_size=8).digest()
