"""From finished parts to a dataset: duplicates, the split, the card. No image is read again, only the ledgers are.

They are read twice, once to decide and once to write. Memory grows with the digests, about 150 bytes a row; the texts
pass through.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout, records
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.prep import duplicates
from medvl_jobs.prep.card import REASONS, Tally, card
from medvl_jobs.prep.duplicates import Assignment, Rows, assign
from medvl_jobs.prep.export import Conversations
from medvl_jobs.prep.part import ENDS_SHARD, REFUSED, STAGE, part_names
from medvl_jobs.prep.rows import Reason, short_digest
from medvl_jobs.prep.split import SIDES, Side
from medvl_jobs.prep.write import TableFile
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, require_manifest

_DECIDING = ["example_id", "group", "ticket", "pixels", "phash"]
WITHOUT_CAPTION = (Reason.UNMATCHED_IMAGE, Reason.UNREADABLE_ROWS, Reason.UNSAFE_PATH, Reason.OVERSIZED_FILE)
"""Reasons for which a file in an archive was refused before its caption was looked at."""
_AT_ONCE = 8
"""Objects that are on their way from the store at a time."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class FinishedPart:
    """A part that has its manifest."""

    name: str
    manifest: Manifest


def finished_parts(storage: Storage, key: str, shards: int) -> tuple[FinishedPart, ...] | None:
    """All parts of all ``shards`` source files, in the order of the rows; none when one is missing."""
    names = part_names(storage, key)
    fetched = _fetched(names, lambda name: require_manifest(storage, layout.prepared_part(key, name), STAGE))
    found = {name: FinishedPart(name, manifest) for name, manifest in zip(names, fetched, strict=True)}
    parts: list[FinishedPart] = []
    for shard in range(shards):
        number, last = 0, False
        while not last:
            part = found.get(layout.part_name(shard, number))
            if part is None:
                return None
            parts.append(part)
            number, last = number + 1, bool(part.manifest.counts[ENDS_SHARD])
    return tuple(parts)


@dataclass(frozen=True)
class Decision:
    """What has become of every accepted row, and the counts of it."""

    rows: Rows
    assignment: Assignment
    card: dict[str, Any]


def decide(ledgers: Ledgers, settings: RunSettings, outputs: Outputs | None = None) -> Decision:
    """Put every row on a side, or leave it out. The sides' lists go to ``outputs``."""
    decisive = ledgers.rows()
    assignment = assign(decisive, settings.prep.val_ratio, settings.prep.duplicates)
    tally = Tally(refused=_refused(ledgers.parts), assignment=assignment)
    start = 0
    for part, ledger in ledgers.tables():
        rows = slice(start, start + ledger.num_rows)
        tally.add(ledger, assignment.is_val[rows], assignment.left_out[rows])
        if outputs:
            outputs.add(part, ledger, assignment.is_val[rows], assignment.left_out[rows])
        start = rows.stop
    return Decision(decisive, assignment, card(tally, settings.prep) | ledgers.captions_apart(tally))


@dataclass(frozen=True)
class Ledgers:
    """The ledgers of some parts, fetched ahead."""

    parts: Sequence[FinishedPart]
    storage: Storage
    key: str

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Each part's name and its rows of `records.LEDGER`."""
        names = [part.name for part in self.parts]
        data = _fetched(names, lambda name: self.storage.read_bytes(layout.ledger(self.key, name)))
        for name, each in zip(names, data, strict=True):
            yield name, pq.ParquetFile(io.BytesIO(each)).read(columns=columns)

    def captions_apart(self, tally: Tally) -> dict[str, Any]:
        """For the card: how many captions lie apart, in files of their own, and how many of them have an image."""
        place = layout.captions(self.key)
        if not self.storage.exists(place):
            return {}
        without = sum(tally.refused[reason.value] for reason in WITHOUT_CAPTION)
        counts = json.loads(self.storage.read_bytes(place))
        return {"captions_apart": {**counts, "with_image": tally.read - without}}

    def rows(self) -> Rows:
        """What the split is decided by."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("ids", "groups", "tickets", "pixels", "phashes")}
        for _, table in self.tables(_DECIDING):
            found["ids"].append(digests(short_digest(text) for text in table["example_id"].to_pylist()))
            found["groups"].append(digests(short_digest(text) for text in table["group"].to_pylist()))
            found["tickets"].append(table["ticket"].to_numpy())
            found["pixels"].append(digests(digest[:16] for digest in table["pixels"].to_pylist()))
            found["phashes"].append(table["phash"].to_numpy())
        return Rows(**{name: np.concatenate(arrays) for name, arrays in found.items()})


class Outputs:
    """The lists of the dataset, on disk until they are published."""

    def __init__(self, scratch: Path, settings: RunSettings) -> None:
        self._sides = {name: TableFile(scratch / layout.split_file(name), records.SPLIT) for name in SIDES}
        self._left_out = TableFile(scratch / layout.LEFT_OUT, records.LEFT_OUT)
        self._conversations = None
        if settings.prep.llamafactory_export:
            self._conversations = Conversations(scratch, settings.prompt)

    def add(self, part: str, ledger: pa.Table, is_val: np.ndarray, left_out: np.ndarray) -> None:
        """Sort the rows of one part onto the sides."""
        kept = left_out == duplicates.KEEP
        masks: dict[Side, np.ndarray] = {"train": kept & ~is_val, "val": kept & is_val}
        for side, mask in masks.items():
            self._sides[side].write(_places(part, ledger, mask))
        reasons = pa.array([REASONS[code].value for code in left_out[~kept].tolist()], pa.string())
        self._left_out.write(_places(part, ledger, ~kept).append_column("reason", reasons))
        if self._conversations:
            for side, mask in masks.items():
                chosen = ledger.select(["caption", "file_name"]).filter(pa.array(mask)).to_pylist()
                for row in chosen:
                    self._conversations.add(row["caption"], f"{part}/{row['file_name']}", side)

    def publish(self, publication: Publication, card: dict[str, Any]) -> None:
        """Store everything under the prefix that is not part of a part, but for the manifest."""
        for file in (*self._sides.values(), self._left_out):
            file.close()
            publication.upload(file.path, file.path.name, rows=file.rows)
        if self._conversations:
            self._conversations.publish(publication)
        publication.write_bytes(layout.CARD, (json.dumps(card, indent=2) + "\n").encode())


def _places(part: str, ledger: pa.Table, mask: np.ndarray) -> pa.Table:
    """Rows of `records.SPLIT` for those of the ledger that the mask chooses."""
    rows = np.flatnonzero(mask)
    names = pa.array([part] * len(rows), pa.string())
    return pa.table([ledger["example_id"].take(rows), names, pa.array(rows, pa.int32())], ["example_id", "part", "row"])


def digests(values: Iterable[bytes]) -> np.ndarray:
    """[N] values of 16 bytes that numpy can sort, but for those it would take for text: trailing zeros are kept."""
    return np.frombuffer(b"".join(values), dtype="V16").view(np.dtype([("high", "u8"), ("low", "u8")]))


def _refused(parts: Sequence[FinishedPart]) -> Counter[str]:
    refused: Counter[str] = Counter()
    for part in parts:
        counts = part.manifest.counts.items()
        refused.update({name.removeprefix(REFUSED): rows for name, rows in counts if name.startswith(REFUSED)})
    return refused


def _fetched(names: Sequence[A], fetch: Callable[[A], B]) -> Iterator[B]:
    """``fetch`` of every name, in their order; a few are on their way at a time, and no more are held."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = iter(names)
        pending = [pool.submit(fetch, name) for name in islice(waiting, 2 * _AT_ONCE)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(fetch, name) for name in islice(waiting, 1)]
