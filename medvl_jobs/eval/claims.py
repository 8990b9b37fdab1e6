"""``claims.parquet``: where in each answer each claim stands, and whether it is right."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.records import CLAIMS, Prediction
from medvl_jobs.eval.facts import Claim, claims, mark
from medvl_jobs.eval.reading import Reading


def claims_parquet(predictions: Sequence[Prediction], readings: Sequence[Reading], truths: Sequence[Facts]) -> bytes:
    """`records.CLAIMS` of all answers, in their order; nothing of one whose truth states nothing to judge it by."""
    rows: list[dict[str, Any]] = []
    for prediction, reading, truth in zip(predictions, readings, truths, strict=True):
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
    return buffer.getvalue()


def spoken(claim: Claim) -> str:
    """A claim's value as text: ``left lung``, ``12.5%``."""
    return f"{claim.value:g}%" if isinstance(claim.value, float) else claim.value
