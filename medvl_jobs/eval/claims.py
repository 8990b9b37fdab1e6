"""Each answer's claims beside the truth, and ``claims.parquet``: where each stands, and whether it is right."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.records import CLAIMS, Prediction
from medvl_jobs.eval.facts import Claim, claims, mark, score_facts
from medvl_jobs.eval.reading import Reading, read, read_facts


class Judged(NamedTuple):
    """What an answer says, and what is so."""

    reading: Reading
    truth: Facts

    def scores(self) -> dict[str, float]:
        """`score_facts`, and with it ``facts_hedged``, the percentage of the claims that are made with a hedge."""
        scores = score_facts(self.reading.facts, self.truth)
        hedged = sum(stated.hedged for stated in self.reading.stated)
        return scores and {**scores, "facts_hedged": 100 * hedged / max(len(self.reading.stated), 1)}


def judge(predictions: Sequence[Prediction], truths: Mapping[str, str | None]) -> list[Judged]:
    """Each answer read, beside the truth about its example.

    ``truths`` holds the facts as JSON by example; where a data set has none, the reference caption is read for them.
    """
    judged = []
    for prediction in predictions:
        known = truths[prediction.example_id]
        truth = Facts.from_json(known) if known else read_facts(prediction.label)
        judged.append(Judged(read(prediction.predict), truth))
    return judged


def claims_parquet(predictions: Sequence[Prediction], judged: Sequence[Judged]) -> tuple[bytes, int]:
    """`records.CLAIMS` of all answers, in their order, and how many claims they are.

    An answer whose truth states nothing has no claims here: there is nothing to judge them by.
    """
    rows: list[dict[str, Any]] = []
    for prediction, (reading, truth) in zip(predictions, judged, strict=True):
        if not claims(truth):
            continue
        marks = mark(reading.facts, truth)
        for stated in reading.stated:
            rows.append(
                {
                    "example_id": prediction.example_id,
                    "start": stated.start,
                    "end": stated.end,
                    "field": stated.claim.field,
                    "value": spoken(stated.claim),
                    "right": marks[stated.claim],
                }
            )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=CLAIMS), buffer)
    return buffer.getvalue(), len(rows)


def spoken(claim: Claim) -> str:
    """A claim's value as text: ``left lung``, ``12.5%``."""
    return f"{claim.value:g}%" if isinstance(claim.value, float) else claim.value
