"""Reads what one evaluation left: predictions, scores, claims. What is spoilt is refused, never left out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.contracts.records import CLAIMS, SCORES, Prediction, read_predictions
from medvl_jobs.errors import DataError
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import require_manifest

_TIMES = ("_runtime", "_per_second", "_time")
"""How the totals end that are about an evaluation, and not about what was answered."""


@dataclass(frozen=True)
class Claim:
    """Characters ``[start, end)`` of an answer, what they claim, and whether it is so."""

    start: int
    end: int
    field: str
    value: str
    right: bool


@dataclass(frozen=True)
class Answers:
    """All that one variant said, and its scores."""

    manifest: Manifest
    predictions: dict[str, Prediction]
    """By example id."""
    scores: dict[str, dict[str, float]]
    """Metric -> example id -> value."""
    results: dict[str, float | str]
    """``predict_results.json``."""
    claims: dict[str, tuple[Claim, ...]] = field(default_factory=dict)
    """By example id; empty when the evaluation left no claims."""

    def only(self, example_ids: set[str]) -> Answers:
        """The answers to these examples; of ``results``, where they are about others too, only the times stay."""
        predictions = {key: each for key, each in self.predictions.items() if key in example_ids}
        whole = len(predictions) == len(self.predictions)
        return Answers(
            self.manifest,
            predictions,
            {name: {k: v for k, v in values.items() if k in example_ids} for name, values in self.scores.items()},
            {name: value for name, value in self.results.items() if whole or name.endswith(_TIMES)},
            {key: each for key, each in self.claims.items() if key in example_ids},
        )


def read_answers(storage: Storage, prefix: str) -> Answers:
    """One variant's answers.

    Raises `DataError` for a torn line, an example that is answered twice or not named, a score that is no number or
    stands there twice, and a claim that is not in its answer.
    """
    manifest = require_manifest(storage, prefix, "eval")
    predictions: dict[str, Prediction] = {}
    for path in (entry.path for entry in manifest.files if entry.path.endswith(".jsonl")):
        where = f"{storage.uri}/{prefix}/{path}"
        for prediction in _read_part(storage.read_bytes(f"{prefix}/{path}"), where):
            if prediction.example_id in predictions:
                raise spoilt(f"the example '{prediction.example_id}' was predicted twice", where)
            predictions[prediction.example_id] = prediction
    results = read_totals(storage, f"{prefix}/{layout.PREDICT_RESULTS}")
    scores = _read_scores(storage, f"{prefix}/{layout.SCORES}")
    return Answers(manifest, predictions, scores, results, _read_claims(storage, prefix, manifest, predictions))


def _read_part(data: bytes, where: str) -> list[Prediction]:
    try:
        lines = read_predictions(data.decode())
    except (ValueError, TypeError) as error:  # not JSON or UTF-8; not the fields of a prediction
        raise spoilt(f"a line is not a prediction: {error}", where) from error
    for number, each in enumerate(lines, start=1):
        texts = (each.example_id, each.image_id, each.predict, each.label, each.finish)
        if not all(isinstance(text, str) for text in texts) or not each.example_id:
            raise spoilt(f"line {number} is not a prediction: it has no id, or no text", where)
    return lines


def read_totals(storage: Storage, key: str) -> dict[str, float | str]:
    """A flat JSON file of totals, without what is no finite number: ``report.json`` is JSON, which knows no NaN."""
    try:
        totals = dict(json.loads(storage.read_bytes(key)))
    except (ValueError, TypeError) as error:
        raise spoilt(f"this is not JSON: {error}", f"{storage.uri}/{key}") from error
    return {
        name: value
        for name, value in totals.items()
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
    }


def _read_scores(storage: Storage, key: str) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    table = _read_table(storage, key, SCORES)
    columns = (table[name].to_pylist() for name in ("example_id", "metric", "value"))
    for example_id, metric, value in zip(*columns, strict=True):
        if not math.isfinite(value):
            raise spoilt(f"the score {metric} of '{example_id}' is {value}", f"{storage.uri}/{key}")
        of_metric = scores.setdefault(metric, {})
        if example_id in of_metric:
            raise spoilt(f"the score {metric} of '{example_id}' stands there twice", f"{storage.uri}/{key}")
        of_metric[example_id] = value
    return scores


def _read_table(storage: Storage, key: str, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(key))).select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError, KeyError) as error:  # not parquet; other columns, or of another kind
        raise spoilt(f"this is not parquet with {', '.join(schema.names)}: {error}", f"{storage.uri}/{key}") from error


def _read_claims(
    storage: Storage, prefix: str, manifest: Manifest, predictions: dict[str, Prediction]
) -> dict[str, tuple[Claim, ...]]:
    if not any(entry.path == layout.CLAIMS for entry in manifest.files):
        return {}
    key = f"{prefix}/{layout.CLAIMS}"
    claims: dict[str, list[Claim]] = {}
    for row in _read_table(storage, key, CLAIMS).to_pylist():
        example_id = row.pop("example_id")
        claim, answer = Claim(**row), predictions.get(example_id)
        if answer is None or not 0 <= claim.start < claim.end <= len(answer.predict):
            what = f"the claim {claim.field} at {claim.start} to {claim.end} is not in the answer to '{example_id}'"
            raise spoilt(what, f"{storage.uri}/{key}")
        claims.setdefault(example_id, []).append(claim)
    return {key: tuple(sorted(each, key=lambda c: (c.start, c.end))) for key, each in claims.items()}


def refuse_strangers(answers: Answers, asked: Sequence[str], prefix: str) -> None:
    """Raise `DataError` when there are answers or scores to examples that were not asked, or no answers at all.

    Fewer answers than examples are no error: those that are missing count as wrong.
    """
    answered = set(answers.predictions).union(*answers.scores.values())
    if strangers := sorted(answered - set(asked)):
        what = f"{len(strangers)} answers are to no example of the validation split, such as '{strangers[0]}'"
        raise spoilt(what, prefix)
    if not answers.predictions:
        raise spoilt("there is not one prediction", prefix)


def spoilt(what: str, where: str) -> DataError:
    """An evaluation that has to be made again."""
    return DataError(what, where=where, remedy="delete the manifest beside it and run `medvl eval` again")
