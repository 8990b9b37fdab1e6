"""The eval stage: one variant's answers to the validation split, and their scores."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

import torch

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import InputRef, Manifest, Provenance
from medvl_jobs.eval.engines.in_process import InProcessEngine
from medvl_jobs.eval.predict import Outcome, Predictor, questions
from medvl_jobs.eval.results import predict_results, score, scores_parquet
from medvl_jobs.model.adapters import fetch_adapter
from medvl_jobs.model.dataset import open_split
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest, require_manifest

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, keys: StageKeys, variant: Variant) -> Manifest:
    """Predict and score one variant; what an earlier attempt finished is kept."""
    prefix = layout.predictions(keys.eval[variant])
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    started = time.monotonic()
    prepared = require_manifest(storage, layout.prepared(keys.prep), "prep")
    with tempfile.TemporaryDirectory(prefix="medvl-eval-") as folder:
        scratch = Path(folder)
        rows = open_split(storage, keys.prep, "val", scratch)
        about = rows.remove_columns("image").to_list()
        asked = questions(about, settings.eval, variant, settings.prompt.answer_prefix)
        adapter: Path | None = None
        adapter_inputs: tuple[InputRef, ...] = ()
        if variant is not Variant.BASE:
            adapter, adapter_inputs = fetch_adapter(settings, storage, keys, scratch)
        publication = Publication(storage, prefix)
        predictor = Predictor(storage, prefix, publication, settings.eval)
        outcome = predictor.run(
            asked, lambda row: bytes(rows[row]["image"]["bytes"]), lambda: InProcessEngine(settings, adapter)
        )
    scoring = time.monotonic()
    scores = score(outcome.predictions, {str(row["example_id"]): row["facts"] for row in about})
    results = predict_results(outcome, scores, outcome.seconds + time.monotonic() - scoring)
    publication.write_bytes(layout.PREDICT_RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    publication.write_bytes(layout.SCORES, scores_parquet(outcome.predictions, scores), rows=len(outcome.predictions))
    inputs = (prepared.as_input(layout.prepared(keys.prep)), *adapter_inputs)
    manifest = publication.finish(provenance(settings, keys.eval[variant], variant, inputs, outcome, started))
    predictor.forget_timings(asked)
    return manifest


def provenance(
    settings: RunSettings, key: str, variant: Variant, inputs: tuple[InputRef, ...], outcome: Outcome, started: float
) -> Provenance:
    """What the manifest says of this evaluation."""
    environment = read_environment()
    seconds = time.monotonic() - started
    resolved = settings.model_dump(mode="json", include={"model", "prompt", "eval"})
    return Provenance(
        stage="eval",
        key=key,
        inputs=inputs,
        settings={"variant": variant.value, **resolved},
        counts={
            "examples": len(outcome.predictions),
            "empty": sum(not p.predict for p in outcome.predictions),
            "cut_off": sum(p.finish == "length" for p in outcome.predictions),
        },
        git_sha=environment.git_sha,
        image_digest=environment.image_digest,
        wall_seconds=seconds,
        gpu_seconds=seconds * torch.cuda.device_count(),
    )
