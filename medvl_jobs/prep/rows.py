"""A row on its way through prep: first raw, then an example or a refusal.

Plain frozen values without pyarrow or open files, so that checking is a pure function and can move to worker processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from urllib.parse import quote

from medvl_jobs.model.images import Suffix

GroupSource = Literal["column", "pattern", "id"]

_MAX_NAME_BYTES = 240
"""File systems stop at 255 bytes a name; the rest is for the suffix and a store's temporary names."""


class Reason(StrEnum):
    """Why a row is refused: the ``reason`` column of the quarantine and the keys of ``refused`` in the card."""

    MISSING_IMAGE = "missing_image"
    UNDECODABLE_IMAGE = "undecodable_image"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_LARGE = "image_too_large"
    EXTREME_ASPECT = "extreme_aspect"
    MISSING_ID = "missing_id"
    UNSAFE_ID = "unsafe_id"
    DUPLICATE_ID = "duplicate_id"
    CAPTION_MISSING = "caption_missing"
    CAPTION_EMPTY = "caption_empty"
    CAPTION_TOO_LONG = "caption_too_long"
    UNSAFE_CAPTION = "unsafe_caption"
    BAD_FACTS = "bad_facts"
    BAD_TYPE = "bad_type"
    UNREADABLE_ROWS = "unreadable_rows"
    UNSAFE_PATH = "unsafe_path"
    UNMATCHED_IMAGE = "unmatched_image"
    AMBIGUOUS_NAME = "ambiguous_name"
    OVERSIZED_FILE = "oversized_file"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row cannot be used: the reason to count by, and what exactly was found."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """What a source says, not yet believed: a cell may hold any type."""

    source: str
    """Name of the file, relative to its folder."""
    row: int
    """Number in that file, from 0."""
    image: object
    id: object
    caption: object
    group: object = None
    facts: object = None
    problem: Refusal | None = None
    """What the reader itself found wrong, a page that does not decompress, say; the cells are then not looked at."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What `pixels.measure` measures on a decoded image, RGB or grayscale, 8 bit."""

    sha256: bytes
    """Of mode, size and pixels: equal for the same picture in two files, whatever their compression."""
    phash: int
    """Perceptual hash of 64 bits: close for pictures that look alike."""
    green_box: bool
    """Whether somebody has drawn a box in saturated green, see `pixels.has_green_box`."""


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image that decodes, and the form in which it is stored: 8 bit, RGB or grayscale, upright."""

    data: bytes
    """Encoded."""
    suffix: Suffix
    width: int
    height: int
    conversions: tuple[str, ...]
    """Names that say what was done: ``palette_to_rgb``, ``webp_to_png``; empty when ``data`` is what came in."""
    came_as: str
    """Format and mode of what came in: ``JPEG L``."""
    pixels: Pixels
    """Measured on the stored form."""


@dataclass(frozen=True, slots=True)
class Example:
    """An accepted row; see `contracts.records.PREPARED` for the fields that are stored."""

    example_id: str
    image: CheckedImage
    caption: str
    group: str
    group_source: GroupSource
    facts: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the image as a file: one path component, and different for different ids.

        The id is percent-encoded. Encoding can triple an id's length, beyond what a file system takes, so a long one
        is named by its hash; no encoded id begins like that, since ``%`` is always followed by two upper-case digits.
        """
        name = quote(self.example_id, safe="")
        if name.startswith("."):  # a hidden file, or a name that a store keeps for itself
            name = "%2E" + name[1:]
        if len(name) > _MAX_NAME_BYTES:
            name = "%sha256-" + hashlib.sha256(self.example_id.encode()).hexdigest()
        return f"{name}.{self.image.suffix}"


class RefusedError(Exception):
    """Carries a `Refusal` out of a check; `judge.examine` turns it back into a value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """``detail`` is for a person: what was found, and the limit that it broke."""
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


def short_digest(text: str) -> int:
    """64 bits that stand for ``text``: of 25 million, two agree by chance in one dataset of 60,000."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
