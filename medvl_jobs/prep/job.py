"""The prep stage: cut the source into parts, judge every row of each, and make a dataset that training can trust."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress, untold
from medvl_jobs.contracts.manifest import InputRef, Manifest, Provenance
from medvl_jobs.errors import TryAgainError
from medvl_jobs.page.words import quantity
from medvl_jobs.prep.export import check_prompt
from medvl_jobs.prep.finalize import Outputs, decide
from medvl_jobs.prep.finished import FinishedPart, Ledgers, finished_parts
from medvl_jobs.prep.gates import require_usable
from medvl_jobs.prep.share import make_share
from medvl_jobs.prep.source import Source, find_source
from medvl_jobs.prep.split import Grouping
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors, scratch_folder
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)


def run(
    settings: RunSettings, storage: Storage, key: str, source: Source | None = None, progress: Progress = untold
) -> Manifest | None:
    """Make the prepared dataset ``key``, or return its manifest when it is there; ``source`` if it is known already.

    Finished parts of an earlier attempt are kept. With ``prep.indexes`` above 1 only a share of the parts is made here;
    whoever finishes the last part, of all pods, makes the dataset of them, and the others return none.
    Raises `MissingInputError`, `SettingsError`, and `DataError`: when a source file cannot be read, when a gate fails,
    and when a side of the split stays empty. Card and quarantine are there then, no manifest.
    """
    prefix = layout.prepared(key)
    if (done := read_manifest(storage, prefix)) is not None:
        log.info("prep is done already: %s/%s", storage.uri, prefix)
        place = f"{prefix}/{layout.CARD}"
        card = json.loads(storage.read_bytes(place))  # the limits may not be those that it was made under
        require_usable(card, settings.prep, where=f"{storage.uri}/{place}", prepared=f"{storage.uri}/{prefix}")
        return done
    started = time.monotonic()
    with scratch_folder("medvl-prep-") as scratch, os_errors(scratch):
        source, parts = read(settings, storage, key, scratch, source, progress)
        if parts is None:
            return None
        publication = Publication(storage, prefix)
        outputs = Outputs(scratch, settings)
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
    settings: RunSettings,
    storage: Storage,
    key: str,
    scratch: Path,
    source: Source | None = None,
    progress: Progress = untold,
) -> tuple[Source, tuple[FinishedPart, ...] | None]:
    """Make this pod's share of the parts; then all parts, or none when other pods still have some to make."""
    prep = settings.prep
    Grouping.from_setting(prep.group_pattern)  # this and the prompt are refused before hours of work
    if prep.llamafactory_export:
        check_prompt(settings.prompt)
    source = source or find_source(prep, settings.storage)
    source.require(prep.source_fingerprint)
    make_share(source, settings, storage, key, scratch, progress)
    parts = finished_parts(storage, key, len(source.shards.keys))
    if parts is None and prep.indexes == 1:
        what = "another prep of the same dataset has made parts while this one ran, and has stopped"
        raise TryAgainError(what, where=layout.prepared(key), remedy="start again: finished parts are kept")
    if parts is None:
        log.info("this share is done; the dataset is made when the other pods have done theirs")
    return source, parts


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
    if apart := card.get("captions_apart"):
        if (lost := apart["rows"] - apart["images"]) > 0:
            yield f"{lost:,} of {apart['rows']:,} captions have no image in the archives"
        if apart["repeated_names"]:
            yield f"{apart['repeated_names']:,} captions are of a file name that has come before"
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
