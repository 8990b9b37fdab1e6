"""From predictions to scores, and from scores to the files that hold them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts.records import SCORES, Prediction
from medvl_jobs.eval.claims import Judged
from medvl_jobs.eval.predict import Outcome
from medvl_jobs.eval.similarity import METRICS, aggregate, score_pairs
from medvl_jobs.eval.standard import WITHOUT_THINK, corpus_scores, without_think_scores
from medvl_jobs.eval.standard import score_pairs as standard_scores

Scores = list[dict[str, float]]
"""One dict per example; percentages, but for counts of errors."""


def score(predictions: Sequence[Prediction], judged: Sequence[Judged]) -> Scores:
    """All scores per example: likeness to the reference, by two sets of scores, and facts against the truth."""
    texts = [p.predict for p in predictions], [p.label for p in predictions]
    alike = zip(score_pairs(*texts), without_think_scores(*texts), standard_scores(*texts), strict=True)
    return [
        {**similarity, **without_think, **standard, **each.scores()}
        for each, (similarity, without_think, standard) in zip(judged, alike, strict=True)
    ]


def predict_results(outcome: Outcome, scores: Scores, runtime: float) -> dict[str, float | str]:
    """``predict_results.json``: LLaMA-Factory's keys, then ours; a score's mean is over the examples that have it.

    Where there is no think block, the score without it is the score itself.
    ``predict_runtime`` covers generation and scoring over all attempts. ``predict_model_preparation_time`` is attaching
    the adapter, reading the weights is ``predict_model_load_time``; an attempt that found all parts made loads nothing.
    """
    count = len(outcome.predictions)
    of_all = corpus_scores([p.predict for p in outcome.predictions], [p.label for p in outcome.predictions])
    others = sorted({name for each in scores for name in each} - {*METRICS, *of_all})
    tokens = sum(p.new_tokens for p in outcome.predictions)
    return {
        **aggregate(scores),
        "predict_runtime": round(runtime, 4),
        "predict_samples_per_second": round(count / runtime, 3),
        "predict_steps_per_second": round(outcome.steps / runtime, 3),
        "predict_model_preparation_time": round(outcome.preparation_seconds, 4),
        "predict_model_load_time": round(outcome.load_seconds, 4),
        "predict_new_tokens": tokens,
        "predict_new_tokens_per_second": round(tokens / max(outcome.seconds, 1e-6), 2),
        "predict_cut_off_share": sum(p.finish == "length" for p in outcome.predictions) / count,
        "predict_failed_share": sum(p.finish == "failed" for p in outcome.predictions) / count,
        **{f"predict_{name}": _mean(name, scores) for name in others},
        **{f"predict_{name}": value for name, value in of_all.items()},
    }


def without_times(results: Mapping[str, object]) -> dict[str, object]:
    """What the answers decide, whoever scores them, and however fast."""
    timed = ("_runtime", "_per_second", "_time")
    return {name: value for name, value in results.items() if not name.endswith(timed)}


def _mean(name: str, scores: Scores) -> float:
    plain = name.removesuffix(WITHOUT_THINK)
    return float(np.mean([each.get(name, each.get(plain)) for each in scores if name in each or plain in each]))


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
