"""Reads what the other stages left in the store; from here on the report knows no storage."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.manifest import InputRef, Manifest
from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.errors import DataError
from medvl_jobs.model.prepared import places, read_ledgers
from medvl_jobs.model.prepared import read_examples as read_with_images
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys, variants
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import read_manifest, require_manifest

UNKNOWN = "unknown"
"""The modality of an image of which no facts are known."""


@dataclass(frozen=True)
class Example:
    """One image of the validation split that every variant was asked about."""

    example_id: str
    caption: str
    group: str
    facts: Facts | None

    @property
    def modality(self) -> str:
        """``CT``, ``MR``, … or `UNKNOWN`."""
        return (self.facts.modality if self.facts else None) or UNKNOWN


@dataclass(frozen=True)
class Answers:
    """All that one variant said, and its scores."""

    manifest: Manifest
    predictions: dict[str, Prediction]
    """By example id."""
    scores: dict[str, dict[str, float]]
    """Metric -> example id -> value."""
    results: dict[str, float]
    """``predict_results.json``."""


@dataclass(frozen=True)
class TrainingRun:
    """The log of the training that made the adapter."""

    manifest: Manifest
    log: list[dict[str, Any]]
    """``trainer_log.jsonl``."""
    results: dict[str, float]
    """``all_results.json``."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made of, except the pixels."""

    prepared: Manifest
    card: dict[str, Any]
    examples: tuple[Example, ...]
    """In the order of the split, up to ``eval.limit``."""
    validation_examples: int
    """In the whole split."""
    answers: dict[Variant, Answers]
    training: TrainingRun | None
    """None when the adapter was given, not trained by this run, and its log is not in the store."""
    inputs: tuple[InputRef, ...]


def read_evidence(settings: RunSettings, storage: Storage, keys: StageKeys, scratch: Path) -> Evidence:
    """Read everything but the images, for which there is `read_images`.

    Raises `MissingInputError` for a stage that has not finished and `DataError` for one that left nonsense.
    """
    prefix = layout.prepared(keys.prep)
    prepared = require_manifest(storage, prefix, "prep")
    split = read_examples(storage, keys.prep, scratch)
    examples = split[: settings.eval.limit]
    answers = {variant: read_answers(storage, layout.predictions(keys.eval[variant])) for variant in variants(settings)}
    for variant, given in answers.items():
        refuse_strangers(given, examples, layout.predictions(keys.eval[variant]))
    training, training_prefix = read_training(settings, storage, keys)
    inputs = [prepared.as_input(prefix)]
    inputs += [training.manifest.as_input(training_prefix)] if training else []
    inputs += [given.manifest.as_input(layout.predictions(keys.eval[variant])) for variant, given in answers.items()]
    card = json.loads(storage.read_bytes(f"{prefix}/{layout.CARD}"))
    return Evidence(prepared, card, examples, len(split), answers, training, tuple(inputs))


def read_examples(storage: Storage, prepared_key: str, scratch: Path) -> tuple[Example, ...]:
    """The validation split, without its images: of a real dataset those are gigabytes."""
    tables = read_ledgers(storage, prepared_key, places(storage, prepared_key, "val"), scratch)
    return tuple(
        Example(row["example_id"], row["caption"], row["group"], _facts(row["facts"]))
        for table in tables
        for row in table.select(["example_id", "caption", "group", "facts"]).to_pylist()
    )


def _facts(text: str | None) -> Facts | None:
    return Facts.from_json(text) if text else None


def read_images(storage: Storage, prepared_key: str, scratch: Path, example_ids: Sequence[str]) -> dict[str, bytes]:
    """The encoded images of some examples of the validation split, by id."""
    where = places(storage, prepared_key, "val", example_ids)
    tables = read_with_images(storage, prepared_key, where, scratch)
    return {row["example_id"]: row["image"]["bytes"] for table in tables for row in table.to_pylist()}


def read_answers(storage: Storage, prefix: str) -> Answers:
    """One variant's predictions and scores. Raises `DataError` for a torn line, a duplicate id or a score like NaN."""
    manifest = require_manifest(storage, prefix, "eval")
    predictions: dict[str, Prediction] = {}
    for path in (entry.path for entry in manifest.files if entry.path.endswith(".jsonl")):
        where = f"{storage.uri}/{prefix}/{path}"
        try:
            lines = read_predictions(storage.read_bytes(f"{prefix}/{path}").decode())
        except (ValueError, TypeError) as error:  # not JSON or UTF-8; not the fields of a prediction
            raise _spoilt(f"a line is not a prediction: {error}", where) from error
        for prediction in lines:
            if prediction.example_id in predictions:
                raise _spoilt(f"the example '{prediction.example_id}' was predicted twice", where)
            predictions[prediction.example_id] = prediction
    results = _read_numbers(storage, f"{prefix}/{layout.PREDICT_RESULTS}")
    return Answers(manifest, predictions, _read_scores(storage, prefix), results)


def _read_numbers(storage: Storage, key: str) -> dict[str, float]:
    """A flat JSON file of totals, without what is no finite number: ``report.json`` is JSON, which knows no NaN."""
    totals = json.loads(storage.read_bytes(key))
    return {name: value for name, value in totals.items() if isinstance(value, int | float) and math.isfinite(value)}


def _read_scores(storage: Storage, prefix: str) -> dict[str, dict[str, float]]:
    key = f"{prefix}/{layout.SCORES}"
    scores: dict[str, dict[str, float]] = {}
    for row in pq.read_table(pa.BufferReader(storage.read_bytes(key))).to_pylist():
        if not math.isfinite(row["value"]):
            what = f"the score {row['metric']} of '{row['example_id']}' is {row['value']}"
            raise _spoilt(what, f"{storage.uri}/{key}")
        scores.setdefault(row["metric"], {})[row["example_id"]] = row["value"]
    return scores


def refuse_strangers(answers: Answers, examples: Sequence[Example], prefix: str) -> None:
    """Raise `DataError` when there are answers or scores to examples that were not asked, or no answers at all.

    Fewer answers than examples are no error: those that are missing count as wrong.
    """
    asked = {example.example_id for example in examples}
    answered = set(answers.predictions).union(*answers.scores.values())
    if strangers := sorted(answered - asked):
        what = f"{len(strangers)} answers are to no example of the validation split, such as '{strangers[0]}'"
        raise _spoilt(what, prefix)
    if not answers.predictions:
        raise _spoilt("there is not one prediction", prefix)


def read_training(settings: RunSettings, storage: Storage, keys: StageKeys) -> tuple[TrainingRun | None, str]:
    """The training log and its prefix. An adapter that was given may come without: then there is no curve to show."""
    given = settings.eval.adapter
    if given is None:
        prefix = layout.adapter(keys.adapter)
        manifest = require_manifest(storage, prefix, "train")
    elif Path(given).is_dir():  # on this machine only; eval looks for a directory first, too
        return None, given
    else:
        prefix = given
        found = read_manifest(storage, prefix)
        if found is None:
            return None, prefix
        manifest = found
    if not storage.exists(f"{prefix}/{layout.TRAINER_LOG}"):
        return None, prefix
    log = [json.loads(line) for line in storage.read_bytes(f"{prefix}/{layout.TRAINER_LOG}").splitlines() if line]
    return TrainingRun(manifest, log, _read_numbers(storage, f"{prefix}/{layout.ALL_RESULTS}")), prefix


def _spoilt(what: str, where: str) -> DataError:
    return DataError(what, where=where, remedy="delete the manifest beside it and run `medvl eval` again")
