"""Validation images to try, with the captions that the answers can be compared with."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medvl_jobs.errors import DataError, MissingInputError
from medvl_jobs.model.prepared import Places, places, read_examples
from medvl_jobs.storage.base import Storage

log = logging.getLogger(__name__)

MOST_PARTS = 4
"""Parts that are fetched: one holds a thousand images."""
THUMBNAIL_PIXELS = 192
_PNG = b"\x89PNG"


@dataclass(frozen=True)
class Example:
    """A row of the validation split."""

    example_id: str
    caption: str
    image: bytes
    thumbnail: bytes
    """PNG."""

    @property
    def media_type(self) -> str:
        """Of ``image``: prep stores nothing else."""
        return media_type(self.image)


def media_type(image: bytes) -> str:
    """Of an image in its stored form."""
    return "image/png" if image.startswith(_PNG) else "image/jpeg"


def read_some(storage: Storage, prepared_key: str, count: int, scratch: Path) -> list[Example]:
    """``count`` rows, evenly over a few parts of the validation split; none where there is no prepared dataset."""
    try:
        where = spread(places(storage, prepared_key, "val"), count)
    except (MissingInputError, DataError) as error:
        log.warning("the page has no examples: %s: %s", error.what, error.where)
        return []
    rows = [row for table in read_examples(storage, prepared_key, where, scratch) for row in table.to_pylist()]
    return [
        Example(row["example_id"], row["caption"], row["image"]["bytes"], _thumbnail(row["image"]["bytes"]))
        for row in rows
    ]


def spread(where: list[Places], count: int) -> list[Places]:
    """At most ``count`` rows, of at most `MOST_PARTS` parts, with equal steps between them."""
    if not count:
        return []
    parts = [where[index] for index in _evenly(len(where), min(MOST_PARTS, count))]
    rows = [(part, row) for part in parts for row in part.rows]
    chosen = [rows[index] for index in _evenly(len(rows), count)]
    return [
        Places(part.part, np.array([row for of, row in chosen if of is part]))
        for part in parts
        if any(of is part for of, _ in chosen)
    ]


def _evenly(size: int, count: int) -> list[int]:
    """``count`` of the numbers below ``size``, in the middle of equal stretches; all of them if they are fewer."""
    count = min(size, count)
    return [(2 * number + 1) * size // (2 * count) for number in range(count)]


def _thumbnail(encoded: bytes) -> bytes:
    with Image.open(io.BytesIO(encoded)) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
