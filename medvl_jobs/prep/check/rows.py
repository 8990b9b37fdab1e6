"""The rows that the page of the dataset check shows, read back from the parts: thumbnail, id, place, caption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.model.prepared import rows_at
from medvl_jobs.page.pictures import THUMBNAIL_BUDGET_BYTES, thumbnail
from medvl_jobs.prep.check.choice import SHOWN, Scan
from medvl_jobs.prep.finished import REFUSED, FinishedPart
from medvl_jobs.prep.images import checked_image
from medvl_jobs.prep.rows import Reason, RefusedError
from medvl_jobs.settings.prep import ImageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.fetch import fetched

THUMBNAIL_PIXELS = 224
CAPTION_CHARACTERS = 160
"""The page shows the beginning; the whole is in the part."""
_TOO_MUCH = "left out: the page would grow too large"
_NO_PICTURE = {Reason.UNDECODABLE_IMAGE: "does not decode", Reason.IMAGE_TOO_LARGE: "too large to decode"}


@dataclass(frozen=True)
class Shown:
    """A row on the page."""

    name: str
    """Its id, or what is there in the place of one."""
    place: str
    """``part 00000-00001, row 17``."""
    caption: str
    """Shortened."""
    picture: str | None
    """A ``data:`` address."""
    label: str
    """What the frame says when there is no picture."""
    size: str = ""
    """In pixels, as stored."""
    about: str = ""
    """Where it is now, if that matters."""
    note: str = ""
    """What is special about it: its language, why it was refused."""
    twin: Shown | None = None
    """The row that has the same picture, or nearly."""


@dataclass
class RowReader:
    """Reads rows of the parts: of each file one row group at a time, and none but those that are asked for.

    A store elsewhere has no such thing as half an object: there a part is fetched whole, and thrown away again.
    """

    storage: Storage
    key: str
    scratch: Path
    images: ImageSettings
    _budget: int = field(default_factory=lambda: THUMBNAIL_BUDGET_BYTES, init=False)

    def examples(self, rows: Iterable[int], scan: Scan) -> dict[int, Shown]:
        """Accepted rows by their number."""
        wanted: dict[str, dict[int, int]] = defaultdict(dict)
        for row in rows:
            part, place = scan.place(row)
            wanted[part][place] = row
        shown = {}
        for part, numbers in sorted(wanted.items()):
            for place, cells in self._rows(part, layout.EXAMPLES, numbers):
                shown[numbers[place]] = self._example(f"part {part}, row {place}", cells)
        return shown

    def refused(self, parts: Sequence[FinishedPart]) -> dict[str, list[Shown]]:
        """The first rows of the quarantine by reason, in the order of the source."""
        shown: dict[str, list[Shown]] = defaultdict(list)
        for part in parts:
            wanted = {reason for reason in _reasons(part.manifest.counts) if len(shown[reason]) < SHOWN}
            if not wanted:
                continue
            key = f"{layout.prepared_part(self.key, part.name)}/{layout.QUARANTINE}"
            with fetched(self.storage, key, self.scratch) as path:
                reasons = pq.ParquetFile(path).read(["reason"])["reason"].to_pylist()
            left = {reason: SHOWN - len(shown[reason]) for reason in wanted}
            numbers = []
            for number, reason in enumerate(reasons):
                if left.get(reason, 0) > 0:
                    left[reason] -= 1
                    numbers.append(number)
            for _, cells in self._rows(part.name, layout.QUARANTINE, numbers):
                shown[cells["reason"]].append(self._quarantined(cells))
        return shown

    def _example(self, place: str, cells: Mapping[str, Any]) -> Shown:
        picture, label = self._picture(cells["image"]["bytes"], trusted=True)
        size = f"{cells['width']} × {cells['height']}"
        return Shown(cells["example_id"], place, shortened(cells["caption"]), picture, label, size)

    def _quarantined(self, cells: Mapping[str, Any]) -> Shown:
        data = (cells["image"] or {}).get("bytes")
        picture, label = self._picture(data, trusted=False) if data else (None, "no image")
        name = cells["id"] if cells["id"] else "(no id)"
        caption = shortened(cells["caption"]) if cells["caption"] else ""
        place = f"{cells['source']}, row {cells['row']}"
        return Shown(shortened(name, 80), place, caption, picture, label, note=cells["detail"])

    def _picture(self, data: bytes, *, trusted: bool) -> tuple[str | None, str]:
        """A thumbnail, or what to say where it would be. What is not trusted goes through the checks of prep first."""
        if not trusted:
            try:
                data = checked_image(data, self.images.model_copy(update={"min_side": 1, "max_pixels": None})).data
            except RefusedError as error:
                reason = error.refusal.reason
                return None, _NO_PICTURE.get(reason, reason.value.replace("_", " "))
        address = thumbnail(data, THUMBNAIL_PIXELS)
        if len(address) > self._budget:
            return None, _TOO_MUCH
        self._budget -= len(address)
        return address, ""

    def _rows(self, part: str, file: str, numbers: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of one file of a part by their number, in that order."""
        wanted = np.array(sorted(numbers))
        with fetched(self.storage, f"{layout.prepared_part(self.key, part)}/{file}", self.scratch) as path:
            rows = (row for table in rows_at(path, wanted) for row in table.to_pylist())
            yield from zip(wanted.tolist(), rows, strict=True)


def shortened(text: str, characters: int = CAPTION_CHARACTERS) -> str:
    """Its beginning, in one line that ends with a word, unless words are that long."""
    line = " ".join(text[: 4 * characters].split())
    if len(line) <= characters:
        return line
    cut = line[: characters - 1]
    whole = cut.rsplit(" ", 1)[0]
    return (whole if len(whole) > characters // 2 else cut).rstrip(" ,;:") + "…"


def _reasons(counts: Mapping[str, int]) -> list[str]:
    return [name.removeprefix(REFUSED) for name, rows in counts.items() if name.startswith(REFUSED) and rows]
