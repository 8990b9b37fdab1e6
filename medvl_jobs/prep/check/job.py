"""The dataset check: everything that prep judges, and more, before anybody trains on it; ``medvl prep --check``.

It makes the parts that prep would make, in the place where prep looks for them, and goes on from their ledgers. So a
check costs what prep costs, and prep after a check next to nothing; but only prep makes a dataset of the parts.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.contracts.manifest import Provenance
from medvl_jobs.prep import job as prep
from medvl_jobs.prep.archives import is_archive
from medvl_jobs.prep.card import by_count
from medvl_jobs.prep.check import captions, page, table
from medvl_jobs.prep.check.choice import scan
from medvl_jobs.prep.check.groups import Choice, Group, groups
from medvl_jobs.prep.check.language import Languages
from medvl_jobs.prep.check.rows import RowReader
from medvl_jobs.prep.finalize import decide
from medvl_jobs.prep.finished import Ledgers
from medvl_jobs.prep.gates import require_usable
from medvl_jobs.prep.source import Source
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors, scratch_folder
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)

STAGE = "prep-check"
VERSION = 1
"""Raised by hand when the check finds or shows something else; old checks are then made again."""
JUDGED_BY = "judged_by"
"""In the settings of the manifest: see `judged_by`."""


def run(settings: RunSettings, storage: Storage, key: str, source: Source | None = None) -> dict[str, Any] | None:
    """Check the source of the dataset ``key``, print the table, and return the card.

    None when other pods still have parts to make. Raises what `prep.job.run` raises; when the dataset should not be
    trained on, it raises `DataError` only after the card and the page are there for somebody to see why.
    """
    publication = Publication(storage, layout.check(key))
    card = _finished(settings, storage, key)
    if card is None:
        card = _make(settings, storage, key, publication, source)
    if card is None:
        return None
    address = f"{publication.uri}/{layout.PAGE}"
    print(f"{table.render(card, settings.prep, key)}\n\npage: {address}", flush=True)
    prepared = f"{storage.uri}/{layout.prepared(key)}"
    require_usable(card, settings.prep, where=address, prepared=prepared)
    return card


def _finished(settings: RunSettings, storage: Storage, key: str) -> dict[str, Any] | None:
    """The card of a check that is there, and whose page still says what is so.

    Limits, language and tokenizer are not part of the key. Where one of them has changed the page is made again, from
    the parts: else it would go on to say that a gate fails which passes now.
    """
    prefix = layout.check(key)
    done = read_manifest(storage, prefix)
    if done is None:
        return None
    if done.settings.get(JUDGED_BY) != judged_by(settings):
        log.info("limits, language or tokenizer have changed since %s/%s: it is made again", storage.uri, prefix)
        storage.delete(layout.manifest(prefix))
        return None
    log.info("the check is done already: %s/%s", storage.uri, prefix)
    return dict(json.loads(storage.read_bytes(f"{prefix}/{layout.CARD}")))


def judged_by(settings: RunSettings) -> dict[str, Any]:
    """What the check depends on besides its key."""
    tokenizer = captions.tokenizer_file(settings.model)
    return {
        "version": VERSION,
        "gates": settings.prep.gates.model_dump(mode="json"),
        "language": settings.prep.language,
        "tokenizer": f"sha256:{sha256_file(tokenizer)}" if tokenizer else None,
    }


def _make(
    settings: RunSettings, storage: Storage, key: str, publication: Publication, source: Source | None
) -> dict[str, Any] | None:
    started = time.monotonic()
    languages = Languages(settings.prep.language)  # refused before hours of work
    with scratch_folder("medvl-check-") as scratch, os_errors(scratch):
        source, parts = prep.read(settings, storage, key, scratch, source)
        if parts is None:
            return None
        reader = RowReader(storage, key, scratch, settings.prep.image)
        card, shown = examine(Ledgers(parts, storage, key), settings, languages, reader)
    card["source"] = described(source, settings.prep)
    rendered = page.render(card, settings.prep, key, shown, list(prep.warnings(card)))
    publication.write_bytes(layout.CARD, (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    publication.write_bytes(layout.PAGE, rendered.encode())
    environment = read_environment()
    publication.finish(
        Provenance(
            stage=STAGE,
            key=key,
            inputs=prep.inputs(source, parts, key),
            settings={**settings.model_dump(mode="json", include={"prep"}), JUDGED_BY: judged_by(settings)},
            counts=prep.counts(card),
            git_sha=environment.git_sha,
            image_digest=environment.image_digest,
            wall_seconds=time.monotonic() - started,
        )
    )
    return card


def examine(
    ledgers: Ledgers, settings: RunSettings, languages: Languages, reader: RowReader
) -> tuple[dict[str, Any], list[Group]]:
    """The card of prep with what only the check looks at, and the rows to show."""
    decision = decide(ledgers, settings)
    found = scan(ledgers, decision)
    told = [languages.of(caption) for caption in found.captions]
    tokenizer = captions.tokenizer_file(settings.model)
    card = decision.card
    card["captions"] |= captions.describe(found.captions, told, tokenizer)
    choice = Choice.of(found, decision, told, settings.prep)
    return card, groups(found, choice, reader, ledgers.parts, card)


def described(source: Source, chosen: PrepSettings) -> dict[str, Any]:
    """What the source is made of: files by their kind, and the columns that are read."""
    names = source.shards.keys
    kinds = Counter("tar" if is_archive(name) else PurePosixPath(name).suffix.removeprefix(".") for name in names)
    return {"files": len(names), "kinds": dict(by_count(kinds)), "columns": chosen.columns.model_dump()}
