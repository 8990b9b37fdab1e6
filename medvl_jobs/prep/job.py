"""The prep stage: cut the source into parts, judge every row of each, and make a dataset that training can trust."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import InputRef, Manifest, Provenance
from medvl_jobs.errors import SettingsError
from medvl_jobs.page.words import quantity
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.export import check_prompt
from medvl_jobs.prep.finalize import FinishedPart, Ledgers, Outputs, decide, finished_parts, part_names
from medvl_jobs.prep.folder import ImageFolder
from medvl_jobs.prep.gates import require_usable
from medvl_jobs.prep.part import ENDS_SHARD, make_parts
from medvl_jobs.prep.shards import Beside, Piece, cut, is_streamed
from medvl_jobs.prep.source import Source, find_source
from medvl_jobs.prep.split import Grouping
from medvl_jobs.prep.workers import processors, workers
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, key: str) -> Manifest | None:
    """Make the prepared dataset ``key``, or return its manifest when it is there.

    Finished parts of an earlier attempt are kept. With ``prep.indexes`` above 1 only a share of the parts is made here;
    whoever finishes the last part, of all pods, makes the dataset of them, and the others return none.
    Raises `MissingInputError`, `SettingsError`, and `DataError`: when a source file cannot be read, when a gate fails,
    and when a side of the split stays empty. Card and quarantine are there then, no manifest.
    """
    prefix = layout.prepared(key)
    if (done := read_manifest(storage, prefix)) is not None:
        log.info("prep is done already: %s/%s", storage.uri, prefix)
        return done
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="medvl-prep-") as folder, os_errors(Path(folder)):
        source, parts = read(settings, storage, key, Path(folder))
        if parts is None:
            return None
        publication = Publication(storage, prefix)
        outputs = Outputs(Path(folder), settings)
        card = decide(Ledgers(parts, storage, key), settings, outputs).card
        outputs.publish(publication, card)
    tell(card)
    require_usable(card, settings.prep, where=f"{publication.uri}/{layout.CARD}", prepared=publication.uri)
    environment = read_environment()
    return publication.finish(
        Provenance(
            stage="prep",
            key=key,
            inputs=inputs(source, parts, key),
            settings=settings.model_dump(mode="json", include={"prep", "prompt"}),
            counts=counts(card),
            git_sha=environment.git_sha,
            image_digest=environment.image_digest,
            wall_seconds=time.monotonic() - started,
        )
    )


def read(
    settings: RunSettings, storage: Storage, key: str, scratch: Path
) -> tuple[Source, tuple[FinishedPart, ...] | None]:
    """Make this pod's share of the parts; then all parts, or none when other pods still have some to make."""
    prep = settings.prep
    Grouping.from_setting(prep.group_pattern)  # this and the prompt are refused before hours of work
    if prep.llamafactory_export:
        check_prompt(settings.prompt)
    index = read_environment().completion_index
    if index >= prep.indexes:
        what = f"JOB_COMPLETION_INDEX is {index}, but prep.indexes is {prep.indexes}"
        raise SettingsError(what, remedy="set prep.indexes to the completions of the Job")
    source = find_source(prep, settings.storage)
    source.require(prep.source_fingerprint)
    make_share(source, settings, storage, key, scratch)
    parts = finished_parts(storage, key, len(source.shards.keys))
    if parts is None:
        log.info("this share is done; the dataset is made when the other pods have done theirs")
    return source, parts


def make_share(source: Source, settings: RunSettings, storage: Storage, key: str, scratch: Path) -> None:
    """Make those parts that are this pod's and not there yet.

    As many files are looked at together as there are processes; the next ones are fetched when these are done.
    """
    prep, environment = settings.prep, read_environment()
    done = set(part_names(storage, key))
    beside = _beside(source, prep, scratch)
    count = prep.workers or processors()
    shards = _own_shards(source, prep)
    with workers(count) as run_all:
        for batch in (shards[start : start + count] for start in range(0, len(shards), count)):
            tasks = []
            for shard in batch:
                pieces = _own_pieces(source, shard, prep, scratch)
                left = [rest for piece in pieces if (rest := _rest(piece, done, storage, key))]
                name = source.shards.keys[shard]
                log.info("reading %s: %d of %d pieces to make", source.shards.uri(name), len(left), len(pieces))
                tasks += [partial(make_parts, piece, beside, settings, key, scratch, environment) for piece in left]
            run_all(tasks)
            for fetched in scratch.glob("source-*"):
                fetched.unlink()


def _rest(piece: Piece, done: set[str], storage: Storage, key: str) -> Piece | None:
    """What is left of a piece when some of its parts are done; none when all are."""
    part = piece.first_part
    while layout.part_name(piece.shard, part) in done:
        part += 1
    if part == piece.first_part:
        return piece
    last = read_manifest(storage, layout.prepared_part(key, layout.part_name(piece.shard, part - 1)))
    ended = piece.where is not None or (last is not None and bool(last.counts[ENDS_SHARD]))
    return None if ended else replace(piece, first_part=part)


def _beside(source: Source, prep: PrepSettings, scratch: Path) -> Beside:
    """What workers need besides the file of a piece; the index of the captions is made here, once."""
    images = ImageFolder(source.images) if source.images else None
    if source.captions is None:
        return Beside(images=images)
    captions = source.captions
    log.info("indexing the captions of %d files", len(captions.keys))
    path = scratch / "captions.sqlite"
    with CaptionIndex.build([(captions.fetch(key, scratch), key) for key in captions.keys], prep.columns, path):
        return Beside(captions=path, images=images)


def _shares_files(source: Source, prep: PrepSettings) -> bool:
    """Whether each file is one pod's alone: each pod fetches the files of its parts, so it is so where it can be."""
    return len(source.shards.keys) >= prep.indexes or any(map(is_streamed, source.shards.keys))


def _own_shards(source: Source, prep: PrepSettings) -> list[int]:
    index, shards = read_environment().completion_index, range(len(source.shards.keys))
    return [shard for shard in shards if not _shares_files(source, prep) or shard % prep.indexes == index]


def _own_pieces(source: Source, shard: int, prep: PrepSettings, scratch: Path) -> list[Piece]:
    """Those pieces of a file that are this pod's; the file is fetched for it. Raises `DataError`."""
    name, index = source.shards.keys[shard], read_environment().completion_index
    pieces = cut(source.shards.fetch(name, scratch), name, shard, prep)
    if _shares_files(source, prep):
        return pieces
    return [piece for number, piece in enumerate(pieces) if (shard + number) % prep.indexes == index]


def counts(card: dict[str, Any]) -> dict[str, int]:
    """The figures that the manifest repeats."""
    sides = {f"{side}_{what}": card["split"][side][what] for what in ("rows", "groups") for side in ("train", "val")}
    return {**card["rows"], **sides}


def tell(card: dict[str, Any]) -> None:
    """The last lines of the log; what a person should know before believing the split comes as a warning."""
    log.info("%s", ", ".join(f"{name} {count:,}" for name, count in counts(card).items()))
    if card["rows"]["refused"]:
        reasons = ", ".join(f"{reason}: {rows}" for reason, rows in card["refused"].items())
        log.warning("refused %s: %s", quantity(card["rows"]["refused"], "row"), reasons)
    for warning in warnings(card):
        log.warning("%s", warning)


def warnings(card: dict[str, Any]) -> Iterator[str]:
    """What a person should know before believing the split."""
    if lonely := card["group_source"]["rows"]["id"]:
        reason = "prep.group_pattern misses their ids" if card["group_source"]["pattern"] else "they name no group"
        advice = "slices of one patient can land on both sides; set prep.columns.group or prep.group_pattern"
        yield f"{lonely:,} rows are a group of their own ({reason}): {advice}"
    for kind, found in card["duplicates"].items():
        if found["across"]:
            moved, dropped = quantity(found["moved"], "row"), quantity(found["dropped"], "row")
            done = {"move": f"{moved} moved", "drop": f"{dropped} of train left out"}
            what = done.get(found["policy"], f"they stay, since prep.duplicates.{kind} is keep")
            yield f"{quantity(found['across'], f'{kind} duplicate')} across the split: {what}"


def inputs(source: Source, parts: tuple[FinishedPart, ...], key: str) -> tuple[InputRef, ...]:
    """The source's files, and the parts that were made of them."""
    files = [source.shards, source.captions] if source.captions else [source.shards]
    read = [
        InputRef(uri=each.uri(name), fingerprint=mark) for each in files for name, mark in each.fingerprints.items()
    ]
    return (*read, *(part.manifest.as_input(layout.prepared_part(key, part.name)) for part in parts))
