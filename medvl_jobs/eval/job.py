"""The eval stage: one variant's answers to the validation split, and their scores."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.manifest import InputRef, Manifest, Provenance
from medvl_jobs.contracts.records import SCORES, Prediction
from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.eval.engines.in_process import InProcessEngine
from medvl_jobs.eval.facts import score_facts
from medvl_jobs.eval.predict import Outcome, Predictor, questions
from medvl_jobs.eval.reading import read_facts
from medvl_jobs.eval.similarity import aggregate, score_pairs
from medvl_jobs.model.dataset import open_split
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest, require_manifest

log = logging.getLogger(__name__)

Scores = list[dict[str, float]]
"""One dict of percentages per example."""


def run(settings: RunSettings, storage: Storage, keys: StageKeys, variant: Variant) -> Manifest:
    """Predict and score one variant; what an earlier attempt finished is kept."""
    prefix = layout.predictions(keys.eval[variant])
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    started = time.monotonic()
    prepared = require_manifest(storage, layout.prepared(keys.prep), "prep")
    with tempfile.TemporaryDirectory(prefix="medvl-eval-") as folder:
        scratch = Path(folder)
        rows = open_split(storage, keys.prep, prepared, "val", scratch)
        about = rows.remove_columns("image").to_list()
        asked = questions(about, settings.eval, variant)
        adapter, adapter_inputs = fetch_adapter(settings, storage, keys, variant, scratch)
        engines: list[InProcessEngine] = []

        def engine() -> InProcessEngine:
            engines.append(InProcessEngine(settings, adapter))
            return engines[-1]

        publication = Publication(storage, prefix)
        predictor = Predictor(storage, prefix, publication, settings.eval)
        outcome = predictor.run(asked, lambda row: bytes(rows[row]["image"]["bytes"]), engine)
        scoring = time.monotonic()
        scores = score(outcome.predictions, {str(row["example_id"]): row["facts"] for row in about})
        runtime = outcome.seconds + time.monotonic() - scoring
        results = predict_results(outcome, scores, runtime, engines[0] if engines else None)
        publication.write_bytes(layout.PREDICT_RESULTS, (json.dumps(results, indent=2) + "\n").encode())
        publication.write_bytes(
            layout.SCORES, scores_parquet(outcome.predictions, scores), rows=len(outcome.predictions)
        )
        environment = read_environment()
        manifest = publication.finish(
            Provenance(
                stage="eval",
                key=keys.eval[variant],
                inputs=(prepared.as_input(layout.prepared(keys.prep)), *adapter_inputs),
                settings={
                    "variant": variant.value,
                    **settings.model_dump(mode="json", include={"model", "prompt", "eval"}),
                },
                counts={
                    "examples": len(outcome.predictions),
                    "empty": sum(not p.predict for p in outcome.predictions),
                    "cut_off": sum(p.finish == "length" for p in outcome.predictions),
                },
                git_sha=environment.git_sha,
                image_digest=environment.image_digest,
                wall_seconds=time.monotonic() - started,
                gpu_seconds=(time.monotonic() - started) * torch.cuda.device_count(),
            )
        )
        predictor.forget_timings(asked)
        return manifest


def fetch_adapter(
    settings: RunSettings, storage: Storage, keys: StageKeys, variant: Variant, scratch: Path
) -> tuple[Path | None, tuple[InputRef, ...]]:
    """The adapter's folder on this machine, and what to name it in the manifest; nothing for the base.

    Raises `MissingInputError` when it is not there and `SchemaMismatchError` when it belongs to another base model.
    """
    if variant is Variant.BASE:
        return None, ()
    if settings.eval.adapter and Path(settings.eval.adapter).is_dir():
        return Path(settings.eval.adapter), ()
    prefix = settings.eval.adapter or layout.adapter(keys.adapter)
    manifest = require_manifest(storage, prefix, "train")
    trained_on = manifest.settings["model"]["fingerprint"]
    if trained_on != settings.model.fingerprint:
        raise SchemaMismatchError(
            f"the adapter was trained on base model {trained_on}, this run uses {settings.model.fingerprint}",
            where=f"{storage.uri}/{prefix}",
            remedy="set model.path to that base model, or eval.adapter to an adapter of this one",
        )
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        storage.download(f"{prefix}/{name}", scratch / "adapter" / name)
    return scratch / "adapter", (manifest.as_input(prefix),)


def score(predictions: Sequence[Prediction], truths: dict[str, str | None]) -> Scores:
    """All scores per example: text similarity to the reference, and facts against the known truth.

    ``truths`` holds the facts as JSON by example; where a data set has none, the reference caption is read for them.
    """
    similar = score_pairs([p.predict for p in predictions], [p.label for p in predictions])
    scores = []
    for prediction, similarity in zip(predictions, similar, strict=True):
        known = truths[prediction.example_id]
        truth = Facts.from_json(known) if known else read_facts(prediction.label)
        scores.append({**similarity, **score_facts(read_facts(prediction.predict), truth)})
    return scores


def predict_results(
    outcome: Outcome, scores: Scores, runtime: float, engine: InProcessEngine | None
) -> dict[str, float]:
    """``predict_results.json``: LLaMA-Factory's keys, then ours.

    ``predict_runtime`` covers generation and scoring over all attempts. ``predict_model_preparation_time`` is attaching
    the adapter, reading the weights is ``predict_model_load_time``; an attempt that found all parts made loads nothing.
    """
    count = len(outcome.predictions)
    facts = sorted({name for each in scores for name in each if name.startswith(("fact", "laterality"))})
    tokens = sum(p.new_tokens for p in outcome.predictions)
    return {
        **aggregate(scores),
        "predict_runtime": round(runtime, 4),
        "predict_samples_per_second": round(count / runtime, 3),
        "predict_steps_per_second": round(outcome.steps / runtime, 3),
        "predict_model_preparation_time": round(engine.preparation_seconds, 4) if engine else 0.0,
        "predict_model_load_time": round(engine.load_seconds, 4) if engine else 0.0,
        "predict_new_tokens": tokens,
        "predict_new_tokens_per_second": round(tokens / outcome.seconds, 2),
        "predict_cut_off_share": sum(p.finish == "length" for p in outcome.predictions) / count,
        **{f"predict_{name}": float(np.mean([each[name] for each in scores if name in each])) for name in facts},
    }


def scores_parquet(predictions: Sequence[Prediction], scores: Scores) -> bytes:
    """``scores.parquet`` in `records.SCORES`' long form."""
    rows: list[dict[str, Any]] = [
        {"example_id": prediction.example_id, "metric": metric, "value": float(value)}
        for prediction, each in zip(predictions, scores, strict=True)
        for metric, value in sorted(each.items())
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORES), buffer)
    return buffer.getvalue()
