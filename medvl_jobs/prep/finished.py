"""The parts that lie in the store: which there are, whether any is missing, and what their ledgers say."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice, takewhile
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.prep.duplicates import Rows
from medvl_jobs.prep.rows import short_digest
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import require_manifest

STAGE = "prep-part"
REFUSED = "refused."
"""Before a reason in the counts of a part's manifest."""
ENDS_SHARD = "ends_shard"
"""1 in the counts of the last part of a file: how a reader knows that no part is missing."""

_DECIDING = ["example_id", "group", "ticket", "pixels", "phash"]
_AT_ONCE = 8
"""Objects that are on their way from the store at a time."""

A = TypeVar("A")
B = TypeVar("B")


def part_names(storage: Storage, key: str) -> list[str]:
    """The parts that have their manifest, sorted."""
    prefix, suffix = f"{layout.parts(key)}/", f"/{layout.MANIFEST}"
    names = [name for name in storage.list_keys(prefix) if name.endswith(suffix)]
    return [name.removeprefix(prefix).removesuffix(suffix) for name in names]


@dataclass(frozen=True)
class FinishedPart:
    """A part that has its manifest."""

    name: str
    manifest: Manifest


def finished_parts(storage: Storage, key: str, shards: int) -> tuple[FinishedPart, ...] | None:
    """All parts of all ``shards`` source files, in the order of the rows; none when one is missing."""
    there = set(part_names(storage, key))
    names = []
    for shard in range(shards):
        own = list(takewhile(there.__contains__, (layout.part_name(shard, number) for number in count())))
        # First of each file the last part alone: most pods look when others are still at work.
        if not own or not _manifest(storage, key, own[-1]).counts[ENDS_SHARD]:
            return None
        names += own
    manifests = _fetched(names, lambda name: _manifest(storage, key, name))
    return tuple(map(FinishedPart, names, manifests))


def _manifest(storage: Storage, key: str, part: str) -> Manifest:
    return require_manifest(storage, layout.prepared_part(key, part), STAGE)


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

    def captions_apart(self) -> dict[str, int] | None:
        """The counts of the captions that lie apart from their images, if they do."""
        place = layout.captions(self.key)
        return json.loads(self.storage.read_bytes(place)) if self.storage.exists(place) else None

    def refused(self) -> Counter[str]:
        """Rows in the quarantine of all parts, by reason."""
        refused: Counter[str] = Counter()
        for part in self.parts:
            counts = part.manifest.counts.items()
            refused.update({name.removeprefix(REFUSED): rows for name, rows in counts if name.startswith(REFUSED)})
        return refused

    def rows(self) -> Rows:
        """What the split is decided by."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("ids", "groups", "tickets", "pixels", "phashes")}
        for _, table in self.tables(_DECIDING):
            found["ids"].append(digests(table["example_id"].to_pylist()))
            found["groups"].append(digests(table["group"].to_pylist()))
            found["tickets"].append(table["ticket"].to_numpy())
            beginnings = b"".join(digest[:8] for digest in table["pixels"].to_pylist())
            found["pixels"].append(np.frombuffer(beginnings, np.uint64))
            found["phashes"].append(table["phash"].to_numpy())
        return Rows(**{name: np.concatenate(arrays) for name, arrays in found.items()})


def digests(texts: Sequence[str]) -> np.ndarray:
    """[N] uint64, see `rows.short_digest`."""
    return np.fromiter(map(short_digest, texts), np.uint64, len(texts))


def _fetched(names: Sequence[A], fetch: Callable[[A], B]) -> Iterator[B]:
    """``fetch`` of every name, in their order; a few are on their way at a time, and no more are held."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = iter(names)
        pending = [pool.submit(fetch, name) for name in islice(waiting, 2 * _AT_ONCE)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(fetch, name) for name in islice(waiting, 1)]
