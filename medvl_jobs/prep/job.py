"""The prep stage: read the source row by row, judge each, and write what a training run can trust."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from medvl_jobs.contracts import layout, records
from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.contracts.manifest import InputRef, Manifest, Provenance
from medvl_jobs.errors import DataError, SchemaMismatchError
from medvl_jobs.prep.card import Tally, card
from medvl_jobs.prep.judge import judge
from medvl_jobs.prep.export import LlamaFactoryExport
from medvl_jobs.prep.read import Source, find_source, read_rows, source_fingerprint
from medvl_jobs.prep.rows import Example, RawRow, Refusal
from medvl_jobs.prep.split import SIDES, Grouping, Side, side
from medvl_jobs.prep.write import ShardWriter, prepared_row, quarantine_row
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"


def run(settings: RunSettings, storage: Storage, key: str) -> Manifest:
    """Make the prepared dataset ``key``, or return its manifest when it is there.

    An attempt that died leaves no manifest, so the next one does everything again, and comes to the same bytes.
    Raises `MissingInputError`, `SettingsError`, and `DataError`: when a source file cannot be read, and when too large
    a share of the rows is refused or a side of the split stays empty. Card and quarantine are there then, no manifest.
    """
    prefix = layout.prepared(key)
    if (done := read_manifest(storage, prefix)) is not None:
        log.info("prep is done already: %s/%s", storage.uri, prefix)
        return done
    started = time.monotonic()
    require_pinned_source(settings)
    publication, inputs = Publication(storage, prefix), list[InputRef]()
    with tempfile.TemporaryDirectory(prefix="medvl-prep-") as folder, os_errors(Path(folder)):
        tally = write_dataset(settings, publication, Path(folder), inputs)
    publication.write_bytes(layout.CARD, (json.dumps(card(tally, settings.prep), indent=2) + "\n").encode())
    summarize(tally, settings)
    require_usable(tally, settings, publication.uri)
    environment = read_environment()
    return publication.finish(
        Provenance(
            stage="prep",
            key=key,
            inputs=tuple(inputs),
            settings=settings.model_dump(mode="json", include={"prep", "prompt"}),
            counts=tally.counts(),
            git_sha=environment.git_sha,
            image_digest=environment.image_digest,
            wall_seconds=time.monotonic() - started,
        )
    )


def require_pinned_source(settings: RunSettings) -> None:
    """Refuse a source that is not the one the run was planned for: its result would lie under the other one's key.

    Raises `SchemaMismatchError`.
    """
    pinned = settings.prep.source_fingerprint
    if pinned is not None and pinned != (found := source_fingerprint(settings.prep, settings.storage)):
        raise SchemaMismatchError(
            f"the source has changed since the run was planned: it is {found}, not {pinned}",
            where=settings.prep.source,
            remedy="start the run again, or leave prep.source_fingerprint out of the settings",
        )


def write_dataset(settings: RunSettings, publication: Publication, scratch: Path, inputs: list[InputRef]) -> Tally:
    """Judge every row and write it where it belongs; each file that was read is appended to ``inputs``.

    Raises what `run` raises, but for the verdict on the dataset as a whole.
    """
    prep, grouping, tally = settings.prep, Grouping.from_setting(settings.prep.group_pattern), Tally()
    output = Output(settings, publication, scratch)
    rows = source_rows(find_source(prep, settings.storage), settings, scratch, inputs)
    for row, verdict in judge(rows, prep, grouping):
        if isinstance(verdict, Refusal):
            tally.refuse(verdict)
            output.refuse(row, verdict)
        else:
            chosen = side(verdict.group, prep.split_seed, prep.val_ratio)
            tally.accept(verdict, chosen)
            output.accept(verdict, chosen)
    output.finish()
    return tally


class Output:
    """Everything that prep writes beside the card: two sides, the quarantine, and the export if it is wanted."""

    def __init__(self, settings: RunSettings, publication: Publication, scratch: Path) -> None:
        """Files pass through ``scratch``, a shard at a time. Raises `SettingsError`."""

        def deliver(path: Path, name: str, rows: int) -> None:
            publication.upload(path, name, rows=rows)
            log.info("%s: %d rows, %.1f MB", name, rows, path.stat().st_size / 1e6)

        shard_rows = settings.prep.rows_per_shard
        self._sides = {name: ShardWriter(scratch, name, records.PREPARED, shard_rows, deliver) for name in SIDES}
        self._quarantine = ShardWriter(scratch, QUARANTINE, records.QUARANTINE, shard_rows, deliver)
        self._export = None
        if settings.prep.llamafactory_export:
            self._export = LlamaFactoryExport(publication, scratch, settings.prompt.question)

    def accept(self, example: Example, chosen: Side) -> None:
        """Append to a side of the split."""
        self._sides[chosen].add(prepared_row(example))
        if self._export:
            self._export.add(example, chosen)

    def refuse(self, row: RawRow, refusal: Refusal) -> None:
        """Append to the quarantine."""
        self._quarantine.add(quarantine_row(row, refusal))

    def finish(self) -> None:
        """Write what is still in memory."""
        for writer in (*self._sides.values(), self._quarantine):
            writer.finish()
        if self._export:
            self._export.finish()


def source_rows(source: Source, settings: RunSettings, scratch: Path, inputs: list[InputRef]) -> Iterator[RawRow]:
    """The rows of all files in turn; what each file was is appended to ``inputs``. Raises `DataError`."""
    for number, key in enumerate(source.keys, start=1):
        log.info("reading %s (%d of %d)", source.uri(key), number, len(source.keys))
        with source.local_file(key, scratch) as path:
            yield from read_rows(path, key, settings.prep.columns)
            inputs.append(InputRef(uri=source.uri(key), sha256=sha256_file(path)))


def summarize(tally: Tally, settings: RunSettings) -> None:
    """The last lines of the log; what a person should know before believing the split comes as a warning."""
    log.info("%s", ", ".join(f"{name} {count:,}" for name, count in tally.counts().items()))
    if tally.refused:
        log.warning("refused %d rows (%.1f %%): %s", tally.refused.total(), 100 * tally.bad_share, tally.top_reasons())
    if lonely := tally.group_sources["id"]:
        reason = "prep.group_pattern misses their ids" if settings.prep.group_pattern else "they name no group"
        advice = "slices of one patient can land on both sides; set prep.columns.group or prep.group_pattern"
        log.warning("%d rows are a group of their own (%s): %s", lonely, reason, advice)


def require_usable(tally: Tally, settings: RunSettings, where: str) -> None:
    """Raises `DataError` when the dataset should not be trained on."""
    if not tally.read:
        raise DataError("the source has no rows", where=settings.prep.source, remedy="point prep.source to other files")
    if tally.bad_share > settings.prep.max_bad_share:
        refused = f"{tally.refused.total()} of {tally.read} rows are refused"
        what = f"{refused} ({tally.bad_share:.1%}): {tally.top_reasons()}"
        remedy = (
            f"read {where}/{QUARANTINE} (reason, detail and the original row) and correct the source, "
            f"or raise prep.max_bad_share above its {settings.prep.max_bad_share}"
        )
        raise DataError(what, where=f"{where}/{layout.CARD}", remedy=remedy)
    for name in SIDES:
        if not tally.rows[name]:
            groups = sum(len(each) for each in tally.groups.values())
            what = f"the {name} split is empty: {groups} groups at prep.val_ratio={settings.prep.val_ratio}"
            remedy = "bring more groups (see prep.columns.group), or set another prep.val_ratio or prep.split_seed"
            raise DataError(what, where=f"{where}/{layout.CARD}", remedy=remedy)
