"""One pod's share of the parts: which are its own, which of them are still to be made, and making them.

Pods share whole files where there are enough of them, since each fetches the files of its parts; else they share the
parts of each file. A laptop is the only pod.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress, untold
from medvl_jobs.errors import SchemaMismatchError, SettingsError
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.finished import ENDS_SHARD, part_names
from medvl_jobs.prep.shards import Piece, cut, is_streamed
from medvl_jobs.prep.source import FileSet, Source
from medvl_jobs.prep.workers import workers
from medvl_jobs.processes import processors
from medvl_jobs.settings.environment import Environment, read_environment
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.fetch import fetched
from medvl_jobs.storage.publish import read_manifest

log = logging.getLogger(__name__)


def make_share(
    source: Source, settings: RunSettings, storage: Storage, key: str, scratch: Path, progress: Progress = untold
) -> None:
    """Make those parts that are this pod's and not there yet.

    As many files are looked at together as there are processes; the next ones are fetched when these are done. Raises
    `SettingsError`, `DataError` and what the stores raise.
    """
    prep, environment = settings.prep, read_environment()
    share = _Share.of(source, prep, storage, key, pod_index(prep, environment))
    if not share.shards:
        log.info("all parts of this share are there")
        return
    captions = _index_captions(source.captions, prep, storage, key, scratch) if source.captions else None
    count = prep.workers or processors()
    with workers(count) as run_all:
        for start in range(0, len(share.shards), count):
            batch = share.shards[start : start + count]
            progress(start, len(share.shards))
            with ExitStack() as files:
                pieces = []
                for shard in batch:
                    path = files.enter_context(fetched(source.shards.storage, source.shards.keys[shard], scratch))
                    pieces += share.pieces(shard, path)
                run_all([partial(_make_parts, each, captions, settings, key, scratch, environment) for each in pieces])
            _refuse_changes(source, batch, storage, key)
        progress(len(share.shards), len(share.shards))


def _refuse_changes(source: Source, batch: Sequence[int], storage: Storage, key: str) -> None:
    """Refuse a source that was written to while it was read; the parts of the batch are no longer finished.

    Raises `SchemaMismatchError`.
    """
    changed = [source.shards.uri(name) for name in source.shards.changed(source.shards.keys[shard] for shard in batch)]
    if source.captions:
        changed += [source.captions.uri(name) for name in source.captions.changed(source.captions.keys)]
    if not changed:
        return
    for name in part_names(storage, key):
        if layout.shard_of(name) in batch:
            storage.delete(layout.manifest(layout.prepared_part(key, name)))
    what = "a source file was written to while it was read"
    remedy = "start the run again when nobody writes to the source: its content is another one now"
    raise SchemaMismatchError(what, where=changed[0], remedy=remedy)


def pod_index(prep: PrepSettings, environment: Environment) -> int:
    """Which of the ``prep.indexes`` pods this is. Raises `SettingsError` when it is none of them."""
    given, remedy = environment.completion_index, "set prep.indexes to the completions of the Job"
    if prep.indexes == 1 and given is None:
        return 0
    if given is None:
        what = f"prep.indexes is {prep.indexes}, but JOB_COMPLETION_INDEX does not say which of them this is"
        raise SettingsError(what, remedy="start it as an Indexed Job, or leave prep.indexes out")
    if not given.isdecimal() or int(given) >= prep.indexes:
        raise SettingsError(f"JOB_COMPLETION_INDEX is {given}, but prep.indexes is {prep.indexes}", remedy=remedy)
    return int(given)


def _make_parts(*words: Any) -> None:
    # Here and not above: with several workers this process judges no row, and starts a tenth of a second sooner.
    from medvl_jobs.prep.part import make_parts  # noqa: PLC0415

    make_parts(*words)


@dataclass(frozen=True)
class _Share:
    source: Source
    prep: PrepSettings
    storage: Storage
    key: str
    index: int
    by_file: bool
    done: frozenset[str]
    """The parts that have their manifest, of all pods."""

    @classmethod
    def of(cls, source: Source, prep: PrepSettings, storage: Storage, key: str, index: int) -> _Share:
        names = source.shards.keys
        by_file = len(names) >= prep.indexes or any(map(is_streamed, names))
        return cls(source, prep, storage, key, index, by_file, frozenset(part_names(storage, key)))

    @cached_property
    def shards(self) -> list[int]:
        """Files of which something may be left for this pod; those that are finished are not even fetched."""
        numbers = range(len(self.source.shards.keys))
        own = [shard for shard in numbers if not self.by_file or shard % self.prep.indexes == self.index]
        return [shard for shard in own if self._next_part(shard) is not None]

    def pieces(self, shard: int, path: Path) -> list[Piece]:
        """What is left of a file for this pod."""
        name = self.source.shards.keys[shard]
        pieces = cut(path, name, shard, self.prep)
        if is_streamed(name):
            left = [replace(piece, first_part=self._next_part(shard) or 0) for piece in pieces]
        else:
            left = [each for each in pieces if layout.part_name(shard, each.first_part) not in self.done]
        if not self.by_file:
            left = [each for each in left if (shard + each.first_part) % self.prep.indexes == self.index]
        log.info("reading %s: %d of %d pieces to make", self.source.shards.uri(name), len(left), len(pieces))
        return left

    def _next_part(self, shard: int) -> int | None:
        """The first part of a file that is missing, if any; which part is the last, its manifest says."""
        part = 0
        while layout.part_name(shard, part) in self.done:
            part += 1
        if part:
            last = read_manifest(self.storage, layout.prepared_part(self.key, layout.part_name(shard, part - 1)))
            if last is not None and last.counts[ENDS_SHARD]:
                return None
        return part


def _index_captions(captions: FileSet, prep: PrepSettings, storage: Storage, key: str, scratch: Path) -> Path:
    """Make the index that all workers read, once in each pod, and leave its counts for the card."""
    log.info("indexing the captions of %d files", len(captions.keys))
    path = scratch / "captions.sqlite"
    with ExitStack() as stack:
        files = [(stack.enter_context(fetched(captions.storage, name, scratch)), name) for name in captions.keys]
        index = stack.enter_context(CaptionIndex.build(files, prep.columns, path))
        found = {"rows": index.rows, "repeated_names": index.repeated, "nameless": index.nameless}
    storage.write_bytes(layout.captions(key), (json.dumps(found) + "\n").encode())
    return path
