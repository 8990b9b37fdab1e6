"""Reads what the other stages left in the store; from here on the report knows no storage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.manifest import InputRef, Manifest
from medvl_jobs.errors import DataError
from medvl_jobs.model.prepared import places, read_ledgers
from medvl_jobs.model.prepared import read_examples as read_with_images
from medvl_jobs.report.answers import Answers, read_answers, read_totals, refuse_strangers
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys, variants
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import read_manifest, require_manifest

UNKNOWN = "unknown"
"""The modality or body part of an image of which it is not known."""

ReadFacts = Callable[[str], Facts]
"""Reads the claims of a caption; it is eval's, which the report may not import."""


@dataclass(frozen=True)
class Example:
    """One image of the validation split that every variant was asked about."""

    example_id: str
    caption: str
    group: str
    facts: Facts | None
    """Known truth, or what the caption says of it."""
    from_caption: bool = False

    @property
    def modality(self) -> str:
        """``CT``, ``MR``, … or `UNKNOWN`."""
        return (self.facts.modality if self.facts else None) or UNKNOWN

    @property
    def body_part(self) -> str:
        """``chest``, ``brain``, … or `UNKNOWN`."""
        return (self.facts.body_part if self.facts else None) or UNKNOWN


@dataclass(frozen=True)
class TrainingRun:
    """The training that made the adapter."""

    manifest: Manifest
    log: list[dict[str, Any]]
    """``trainer_log.jsonl``; empty when it is not in the store."""
    results: dict[str, Any]
    """``all_results.json``."""


@dataclass(frozen=True)
class Input:
    """What one stage left, and where."""

    stage: str
    prefix: str
    manifest: Manifest

    @property
    def ref(self) -> InputRef:
        """How the report's manifest names it."""
        return self.manifest.as_input(self.prefix)


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made of, except the pixels."""

    inputs: tuple[Input, ...]
    """In the order in which they were made."""
    card: dict[str, Any]
    examples: tuple[Example, ...]
    """In the order of the split, up to ``eval.limit``."""
    validation_examples: int
    """In the whole split."""
    answers: dict[Variant, Answers]
    trainings: dict[Variant, TrainingRun]
    """By the variant whose adapter it made; none when the adapter was given, and its manifest is not in the store."""
    first_card: dict[str, Any] | None = None
    """Of two runs the first one's card, where that read another dataset; ``card`` is the second one's."""


def read_evidence(
    settings: RunSettings, storage: Storage, keys: StageKeys, scratch: Path, read_facts: ReadFacts | None = None
) -> Evidence:
    """Read everything but the images, for which there is `read_images`.

    Raises `MissingInputError` for a stage that has not finished and `DataError` for one that left nonsense.
    """
    prefix = layout.prepared(keys.prep)
    prepared = require_manifest(storage, prefix, "prep")
    split = read_examples(storage, keys.prep, scratch, read_facts)
    examples = split[: settings.eval.limit]
    asked = [example.example_id for example in examples]
    answers = {variant: read_asked(storage, keys.eval[variant], asked) for variant in variants(settings)}
    training, training_prefix = read_training(settings, storage, keys)
    inputs = [Input("prep", prefix, prepared)]
    inputs += [Input("train", training_prefix, training.manifest)] if training else []
    inputs += [
        Input(f"eval-{variant}", layout.predictions(keys.eval[variant]), given.manifest)
        for variant, given in answers.items()
    ]
    trainings = {Variant.TUNED: training} if training else {}
    return Evidence(tuple(inputs), read_card(storage, prefix), examples, len(split), answers, trainings)


def read_asked(storage: Storage, key: str, asked: Sequence[str]) -> Answers:
    """The answers of one evaluation to the examples that were asked. Raises `DataError` for others."""
    prefix = layout.predictions(key)
    answers = read_answers(storage, prefix)
    refuse_strangers(answers, asked, prefix)
    return answers


def read_card(storage: Storage, prefix: str) -> dict[str, Any]:
    """The dataset's card."""
    key = f"{prefix}/{layout.CARD}"
    return dict(_parsed(storage.read_bytes(key), f"{storage.uri}/{key}"))


def read_examples(
    storage: Storage, prepared_key: str, scratch: Path, read_facts: ReadFacts | None = None
) -> tuple[Example, ...]:
    """The validation split, without its images: of a real dataset those are gigabytes.

    Where nothing is known of an image, ``read_facts`` reads its caption, as eval does. Raises `DataError` for an id
    that stands there twice.
    """
    tables = read_ledgers(storage, prepared_key, places(storage, prepared_key, "val"), scratch)
    rows = [row for each in tables for row in each.select(["example_id", "caption", "group", "facts"]).to_pylist()]
    examples = tuple(_example(**row, read_facts=read_facts) for row in rows)
    seen: set[str] = set()
    for example in examples:
        if example.example_id in seen:
            where = f"{storage.uri}/{layout.prepared(prepared_key)}"
            remedy = "delete the manifest there and run `medvl prep` again"
            raise DataError(f"the example '{example.example_id}' is in val twice", where=where, remedy=remedy)
        seen.add(example.example_id)
    return examples


def _example(example_id: str, caption: str, group: str, facts: str | None, read_facts: ReadFacts | None) -> Example:
    if facts:
        return Example(example_id, caption, group, Facts.from_json(facts))
    return Example(example_id, caption, group, read_facts(caption) if read_facts else None, from_caption=True)


def read_images(storage: Storage, prepared_key: str, scratch: Path, example_ids: Sequence[str]) -> dict[str, bytes]:
    """The encoded images of some examples of the validation split, by id."""
    where = places(storage, prepared_key, "val", example_ids)
    tables = read_with_images(storage, prepared_key, where, scratch)
    return {row["example_id"]: row["image"]["bytes"] for table in tables for row in table.to_pylist()}


def read_training(settings: RunSettings, storage: Storage, keys: StageKeys) -> tuple[TrainingRun | None, str]:
    """The training and its prefix. An adapter that was given may come without."""
    given = settings.eval.adapter
    if given is None:
        prefix = layout.adapter(keys.adapter)
        manifest: Manifest | None = require_manifest(storage, prefix, "train")
    elif Path(given).is_dir():  # on this machine only; eval looks for a directory first, too
        return None, given
    else:
        prefix = given.rstrip("/")
        manifest = read_manifest(storage, prefix)
    return (read_log(storage, prefix, manifest) if manifest else None), prefix


def read_log(storage: Storage, prefix: str, manifest: Manifest) -> TrainingRun:
    """What a training left of itself under ``prefix``, as far as it is there."""
    key = f"{prefix}/{layout.TRAINER_LOG}"
    if not storage.exists(key):
        return TrainingRun(manifest, [], {})
    log = [_parsed(line, f"{storage.uri}/{key}") for line in storage.read_bytes(key).splitlines() if line]
    return TrainingRun(manifest, log, read_totals(storage, f"{prefix}/{layout.ALL_RESULTS}"))


def _parsed(text: bytes, where: str) -> Any:
    """JSON. Raises `DataError` for what is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        remedy = "delete the manifest beside it and run the stage that made it again"
        raise DataError(f"this is not JSON: {error}", where=where, remedy=remedy) from error
