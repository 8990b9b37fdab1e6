"""One part: some hundred consecutive rows of one source file, judged and stored by whoever takes them.

A part is a publication of its own, with its manifest last. So parts can be made by any number of processes and
machines in any order, a killed one makes only its own again, and which rows form a part depends on the source alone:
the bytes are the same for one worker and for seven machines.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medvl_jobs.contracts import layout, records
from medvl_jobs.contracts.manifest import Provenance
from medvl_jobs.prep.finished import ENDS_SHARD, REFUSED, STAGE
from medvl_jobs.prep.judge import judge
from medvl_jobs.prep.rows import RawRow, Refusal
from medvl_jobs.prep.shards import Piece, read_parts
from medvl_jobs.prep.split import Grouping
from medvl_jobs.prep.write import RowsFile, ledger_row, prepared_row, quarantine_row
from medvl_jobs.settings.environment import Environment
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.publish import Publication


def make_parts(
    piece: Piece, captions: Path | None, settings: RunSettings, key: str, scratch: Path, environment: Environment
) -> None:
    """Read, judge and store the rows of a piece; its files pass through ``scratch``.

    ``captions`` is the index of those that lie apart from their images. Raises `DataError` and what the store raises.
    """
    storage = _store(settings.storage) if multiprocessing.parent_process() else open_storage(settings.storage)
    first = layout.manifest(layout.prepared_part(key, layout.part_name(piece.shard, piece.first_part)))
    if piece.where is not None and storage.exists(first):
        return  # another attempt at the same dataset, which goes on beside this one, was faster
    with tempfile.TemporaryDirectory(dir=scratch) as folder, os_errors(Path(folder)):
        made: _Part | None = None
        for number, rows in read_parts(piece, captions, settings.prep, settings.storage):
            if made:
                made.finish(environment, ends_shard=False)
            name = layout.part_name(piece.shard, number)
            made = _Part.begin(name, piece.name, key, storage, settings)
            made.write(rows, settings.prep, Path(folder))
        if made:
            made.finish(environment, ends_shard=piece.ends_shard)


@cache
def _store(settings: StorageSettings) -> Storage:
    """A worker's own connections, for all of its parts: to make them takes a tenth of a second."""
    return open_storage(settings)


@dataclass
class _Part:
    """A part on its way into the store. Whether it is the last of its file may be known only after its last row."""

    name: str
    source: str
    key: str
    publication: Publication
    images: Publication | None
    counts: dict[str, int]
    started: float

    @classmethod
    def begin(cls, name: str, source: str, key: str, storage: Storage, settings: RunSettings) -> _Part:
        publication = Publication(storage, layout.prepared_part(key, name))
        images = None
        if settings.prep.llamafactory_export:
            images = Publication(storage, layout.export_images(key, name))
        return cls(name, source, key, publication, images, {}, time.monotonic())

    def write(self, rows: Iterable[RawRow], prep: PrepSettings, folder: Path) -> None:
        """Store everything but the manifests."""
        examples = RowsFile(folder / layout.EXAMPLES, records.PREPARED)
        ledger = RowsFile(folder / layout.LEDGER, records.LEDGER)
        quarantine = RowsFile(folder / layout.QUARANTINE, records.QUARANTINE)
        reasons: Counter[str] = Counter()
        for row, verdict in judge(rows, prep, Grouping.from_setting(prep.group_pattern)):
            if isinstance(verdict, Refusal):
                quarantine.add(quarantine_row(row, verdict))
                reasons[f"{REFUSED}{verdict.reason}"] += 1
            else:
                examples.add(prepared_row(verdict))
                ledger.add(ledger_row(verdict, prep.split_seed))
                if self.images:
                    self.images.write_bytes(verdict.file_name, verdict.image.data)
        for file in (examples, ledger, quarantine):
            file.close()
            self.publication.upload(file.path, file.path.name, rows=file.rows)
        read = examples.rows + quarantine.rows
        self.counts = {"read": read, "accepted": examples.rows, **dict(sorted(reasons.items()))}

    def finish(self, environment: Environment, *, ends_shard: bool) -> None:
        """Write the manifests, the part's own last: it stands for the exported images as well."""
        provenance = Provenance(
            stage=STAGE,
            key=self.key,
            settings={"source": self.source, "part": self.name},
            counts={**self.counts, ENDS_SHARD: int(ends_shard)},
            git_sha=environment.git_sha,
            image_digest=environment.image_digest,
            wall_seconds=time.monotonic() - self.started,
        )
        for publication in (self.images, self.publication):
            if publication:
                publication.finish(provenance)
