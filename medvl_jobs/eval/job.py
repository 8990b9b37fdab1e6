"""The eval stage: one variant's answers to the validation split, and their scores."""

from __future__ import annotations

import json
import logging
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress, untold
from medvl_jobs.contracts.manifest import InputRef, Manifest, Provenance
from medvl_jobs.errors import SettingsError
from medvl_jobs.eval.claims import claims_parquet, judge
from medvl_jobs.eval.engines.base import Engine
from medvl_jobs.eval.engines.open import open_engine
from medvl_jobs.eval.predict import Outcome, Predictor
from medvl_jobs.eval.questions import Question, asked_question, grey_picture, questions
from medvl_jobs.eval.results import predict_results, score, scores_parquet, without_times
from medvl_jobs.eval.template import TemplateEngine, train_template
from medvl_jobs.model.prepared import places, read_ledgers
from medvl_jobs.settings.environment import Environment, read_environment
from medvl_jobs.settings.eval import EvalSettings, Variant
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors, scratch_folder
from medvl_jobs.storage.publish import Publication, read_manifest, require_manifest

log = logging.getLogger(__name__)

ABOUT = ["example_id", "caption", "group", "width", "height", "facts"]
"""What an evaluation wants to know of an example besides its image."""


def run(
    settings: RunSettings, storage: Storage, keys: StageKeys, variant: Variant, progress: Progress = untold
) -> Manifest | None:
    """Predict and score one variant; what an earlier attempt finished is kept.

    As one pod of several (``eval.shards``) it makes its own share; whoever finds all parts made scores them, and the
    others return none. Raises `SettingsError`, what `Predictor.run` raises, and what reading and loading raise.
    """
    if variant not in keys.eval:
        what = f"{variant} is not among what this run evaluates: {', '.join(keys.eval)}"
        raise SettingsError(what, where="eval.controls", remedy=f"add {variant} to eval.controls")
    prefix = layout.predictions(keys.eval[variant])
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    started = time.monotonic()
    prepared = require_manifest(storage, layout.prepared(keys.prep), "prep")
    with scratch_folder("medvl-eval-") as scratch, os_errors(scratch):
        shown = _Shown(settings, storage, keys, variant, scratch)
        asked = questions(shown.rows, settings.eval, variant, settings.prompt.answer_prefix)
        publication = Publication(storage, prefix)
        own = shard(settings.eval, read_environment())
        predictor = Predictor(storage, prefix, publication, settings.eval, own, progress)
        outcome = predictor.run(asked, shown.image, shown.engine)
    if outcome is None:
        log.info("this share is done; the answers are scored when the other pods have done theirs")
        return None
    if (done := read_manifest(storage, prefix)) is not None:  # another pod was first
        return done
    scoring = time.monotonic()
    judged = judge(outcome.predictions, {str(row["example_id"]): row["facts"] for row in shown.rows})
    scores = score(outcome.predictions, judged)
    results = predict_results(outcome, scores, outcome.seconds + time.monotonic() - scoring)
    publication.write_bytes(layout.PREDICT_RESULTS, _one_of_all(results, storage, prefix))
    publication.write_bytes(layout.SCORES, scores_parquet(outcome.predictions, scores), rows=len(outcome.predictions))
    claims, count = claims_parquet(outcome.predictions, judged)
    publication.write_bytes(layout.CLAIMS, claims, rows=count)
    inputs = (prepared.as_input(layout.prepared(keys.prep)), *shown.inputs)
    manifest = publication.finish(provenance(settings, keys.eval[variant], variant, inputs, outcome, started))
    if predictor.shards == 1:  # another pod may have started, and would miss them
        predictor.forget_efforts(asked)
    return manifest


def _one_of_all(results: dict[str, float | str], storage: Storage, prefix: str) -> bytes:
    """``predict_results.json``: that of the pod that scored these answers first, which differs in its times alone.

    Two pods that finish together would otherwise overwrite each other's, and neither manifest would be true.
    """
    key = f"{prefix}/{layout.PREDICT_RESULTS}"
    data = (json.dumps(results, indent=2) + "\n").encode()
    if storage.write_bytes(key, data, if_absent=True):
        return data
    first = storage.read_bytes(key)
    try:
        same = without_times(json.loads(first)) == without_times(results)
    except (ValueError, AttributeError):  # no JSON, or no object
        same = False
    return first if same else data


def shard(settings: EvalSettings, environment: Environment) -> int | None:
    """Which of the ``eval.shards`` pods this is; none where one process makes everything. Raises `SettingsError`."""
    given = environment.completion_index
    if given is None or settings.shards == 1:
        return None
    if not given.isdecimal() or int(given) >= settings.shards:
        what = f"JOB_COMPLETION_INDEX is {given}, but eval.shards is {settings.shards}"
        raise SettingsError(what, remedy="set eval.shards to the completions of the Job")
    return int(given)


class _Shown:
    """What is shown to whom: rows, images and the engine, each fetched when it is first needed."""

    def __init__(
        self, settings: RunSettings, storage: Storage, keys: StageKeys, variant: Variant, scratch: Path
    ) -> None:
        self.settings, self.storage, self.keys, self.variant, self.scratch = settings, storage, keys, variant, scratch
        ledgers = read_ledgers(storage, keys.prep, places(storage, keys.prep, "val"), scratch)
        self.rows: list[dict[str, Any]] = [row for table in ledgers for row in table.select(ABOUT).to_pylist()]
        self.adapter: Path | None = None
        self.inputs: tuple[InputRef, ...] = ()
        if variant.has_adapter:
            from medvl_jobs.model.adapters import fetch_adapter  # noqa: PLC0415

            self.adapter, self.inputs = fetch_adapter(settings, storage, keys, scratch)

    def image(self, question: Question) -> bytes:
        """The encoded image of a question."""
        if not self.variant.has_model:
            return b""
        if question.image_row is None:
            return grey_picture(question.width, question.height)
        return bytes(self._images[question.image_row]["image"]["bytes"])

    def engine(self) -> Engine:
        """What answers."""
        asked = asked_question(self.settings.prompt, self.settings.eval, self.variant)
        if asked is None:
            template = train_template(self.storage, self.keys.prep, self.scratch)
            return TemplateEngine(f"{self.settings.prompt.answer_prefix}{template}")
        return open_engine(self.settings, self.adapter, asked)

    @cached_property
    def _images(self) -> Any:
        from medvl_jobs.model.dataset import open_split  # noqa: PLC0415

        return open_split(self.storage, self.keys.prep, "val", self.scratch)


def provenance(
    settings: RunSettings, key: str, variant: Variant, inputs: tuple[InputRef, ...], outcome: Outcome, started: float
) -> Provenance:
    """What the manifest says of this evaluation."""
    environment = read_environment()
    wall = time.monotonic() - started
    resolved = settings.model_dump(mode="json", include={"model", "prompt", "eval"})
    asked = asked_question(settings.prompt, settings.eval, variant)
    return Provenance(
        stage="eval",
        key=key,
        inputs=inputs,
        settings={"variant": variant.value, "question": asked, **resolved},
        counts={
            "examples": len(outcome.predictions),
            "empty": sum(not p.predict.strip() and p.finish != "failed" for p in outcome.predictions),
            "failed": sum(p.finish == "failed" for p in outcome.predictions),
            "cut_off": sum(p.finish == "length" for p in outcome.predictions),
        },
        git_sha=environment.git_sha,
        image_digest=environment.image_digest,
        wall_seconds=wall,
        # What other pods and earlier attempts have generated is paid for too; their loading is not known here.
        gpu_seconds=(wall - outcome.own_seconds + outcome.pod_seconds) * gpus(settings, variant),
    )


def gpus(settings: RunSettings, variant: Variant) -> int:
    """GPUs that this pod holds; those of a server elsewhere are not its own."""
    if not variant.has_model or settings.eval.server.url is not None:
        return 0
    import torch  # noqa: PLC0415

    return torch.cuda.device_count()
