"""What an evaluation left may be spoilt in every way: it is refused with its place, or counted, never passed over."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_data import LEVELS, World, claims_parquet, mark_claims, parquet, world

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.records import CLAIMS, SCORES
from medvl_jobs.errors import DataError
from medvl_jobs.report.answers import Claim
from medvl_jobs.report.inputs import Evidence, read_evidence
from medvl_jobs.settings.eval import Variant
from medvl_jobs.storage.base import Storage

TUNED = Variant.TUNED
PART = layout.part(0, "jsonl")


def small() -> World:
    made = world(groups=3)
    mark_claims(made)
    return made


def read(made: World, storage: Storage, root: Path) -> Evidence:
    return read_evidence(made.settings, storage, made.keys, root / "scratch")


def lines(made: World) -> list[dict[str, Any]]:
    return [asdict(prediction) for prediction in made.predictions[TUNED]]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def without_id(rows: list[dict[str, Any]]) -> bytes:
    del rows[1]["example_id"]
    return jsonl(rows)


def with_empty_id(rows: list[dict[str, Any]]) -> bytes:
    return jsonl([*rows[:1], {**rows[1], "example_id": ""}, *rows[2:]])


def with_null_text(rows: list[dict[str, Any]]) -> bytes:
    return jsonl([*rows[:1], {**rows[1], "predict": None}, *rows[2:]])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: jsonl(rows)[:-25], "a line is not a prediction"),
        (lambda rows: jsonl(rows)[:-1] + b'{"example_id": "x"', "a line is not a prediction"),
        (lambda rows: jsonl([*rows, rows[2]]), "predicted twice"),
        (without_id, "missing 1 required positional argument: 'example_id'"),
        (with_empty_id, "line 2 is not a prediction: it has no id"),
        (with_null_text, "line 2 is not a prediction"),
        (lambda rows: jsonl([{**rows[0], "more": 1}]), "unexpected keyword argument 'more'"),
        (lambda rows: b"[1]\n", "a line is not a prediction"),
        (lambda rows: jsonl(rows) + b"\xff\xfe\n", "a line is not a prediction"),
        (lambda rows: b"", "there is not one prediction"),
    ],
)
def test_spoilt_predictions(spoil: Callable[[list[dict[str, Any]]], bytes], words: str, tmp_path: Path) -> None:
    made = small()
    made.scores[TUNED], made.claims = {}, {}
    storage = made.store(tmp_path / "store")
    key = f"{layout.predictions(made.keys.eval[TUNED])}/{PART}"
    storage.write_bytes(key, spoil(lines(made)))
    with pytest.raises(DataError, match=words) as caught:
        read(made, storage, tmp_path)
    assert made.keys.eval[TUNED] in caught.value.where
    assert "medvl eval" in caught.value.remedy


@pytest.mark.parametrize(
    ("example_id", "value", "words"),
    [
        (0, float("nan"), "facts_f1 of 'ct-00-axial-000' is nan"),
        (0, float("inf"), "is inf"),
        (0, 50.0, "stands there twice"),
        ("stranger", 50.0, "to no example of the validation split, such as 'stranger'"),
    ],
)
def test_spoilt_scores(example_id: int | str, value: float, words: str, tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    rows = [
        {"example_id": each, "metric": metric, "value": found}
        for metric, values in made.scores[TUNED].items()
        for each, found in values.items()
    ]
    name = made.examples[example_id].example_id if isinstance(example_id, int) else example_id
    rows.append({"example_id": name, "metric": "facts_f1", "value": value})
    storage.write_bytes(f"{layout.predictions(made.keys.eval[TUNED])}/{layout.SCORES}", parquet(rows, SCORES))
    with pytest.raises(DataError, match=words):
        read(made, storage, tmp_path)


@pytest.mark.parametrize(
    ("claim", "answer"), [(Claim(0, 9999, "plane", "axial", True), 0), (Claim(5, 5, "plane", "axial", True), 0),
                          (Claim(-1, 3, "plane", "axial", True), 0), (Claim(0, 3, "plane", "axial", True), None)]
)  # fmt: skip
def test_a_claim_that_is_not_in_its_answer(claim: Claim, answer: int | None, tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    where = "stranger" if answer is None else made.examples[answer].example_id
    key = f"{layout.predictions(made.keys.eval[TUNED])}/{layout.CLAIMS}"
    storage.write_bytes(key, claims_parquet({where: [claim]}))
    with pytest.raises(DataError, match=r"the claim plane at .* is not in the answer to"):
        read(made, storage, tmp_path)


def test_a_scores_file_that_is_none(tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    storage.write_bytes(f"{layout.predictions(made.keys.eval[TUNED])}/{layout.SCORES}", b"PAR1")
    with pytest.raises(DataError, match="is not parquet"):
        read(made, storage, tmp_path)


@pytest.mark.parametrize("file", [layout.SCORES, layout.CLAIMS])
@pytest.mark.parametrize(
    "columns", [{"example_id": ["a"]}, {**{name: ["a"] for name in (*SCORES.names, *CLAIMS.names)}, "value": [None]}]
)
def test_tables_of_another_kind(file: str, columns: dict[str, list[str | None]], tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    storage.write_bytes(f"{layout.predictions(made.keys.eval[TUNED])}/{file}", buffer.getvalue())
    with pytest.raises(DataError, match="is not parquet with example_id, "):
        read(made, storage, tmp_path)


def test_totals_that_are_no_json(tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    storage.write_bytes(f"{layout.predictions(made.keys.eval[TUNED])}/{layout.PREDICT_RESULTS}", b"{")
    with pytest.raises(DataError, match="is not JSON"):
        read(made, storage, tmp_path)


@pytest.mark.parametrize("file", [layout.TRAINER_LOG, layout.CARD])
def test_what_the_other_stages_left_may_be_torn(file: str, tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    prefix = layout.prepared(made.keys.prep) if file == layout.CARD else layout.adapter(made.keys.adapter)
    storage.write_bytes(f"{prefix}/{file}", storage.read_bytes(f"{prefix}/{file}")[:-20])
    with pytest.raises(DataError, match="is not JSON") as caught:
        read(made, storage, tmp_path)
    assert caught.value.where.endswith(f"{prefix}/{file}")


def test_totals_that_are_no_number_are_left_out_and_words_stay(tmp_path: Path) -> None:
    made = small()
    storage = made.store(tmp_path / "store")
    text = b'{"predict_runtime": NaN, "predict_sacrebleu": 1.5, "predict_sacrebleu_signature": "nrefs:1", "x": null}'
    storage.write_bytes(f"{layout.predictions(made.keys.eval[TUNED])}/{layout.PREDICT_RESULTS}", text)
    found = read(made, storage, tmp_path).answers[TUNED].results
    assert found == {"predict_sacrebleu": 1.5, "predict_sacrebleu_signature": "nrefs:1"}


def test_an_example_that_is_in_val_twice(tmp_path: Path) -> None:
    made = small()
    made.examples.append(made.examples[0])
    with pytest.raises(DataError, match="is in val twice"):
        read(made, made.store(tmp_path / "store"), tmp_path)


def test_a_reference_without_a_prediction_counts_as_wrong_for_that_variant_alone(tmp_path: Path) -> None:
    made = small()
    made.forget(TUNED, made.examples[0].example_id)
    made.claims[TUNED].pop(made.examples[0].example_id)
    evidence = read(made, made.store(tmp_path / "store"), tmp_path)
    assert len(evidence.examples) == 6
    assert len(evidence.answers[TUNED].predictions) == 5
    report = made.report()
    assert [each["missing"] for each in report["variants"]] == [0, 1, 0]
    assert report["overall"]["headline"]["variants"]["tuned"]["value"] < LEVELS[TUNED]


def test_claims_come_back_as_they_were(tmp_path: Path) -> None:
    made = small()
    found = read(made, made.store(tmp_path / "store"), tmp_path).answers
    assert {key: list(each) for key, each in found[TUNED].claims.items()} == made.claims[TUNED]
    assert found[Variant.BASE].claims == {}


def test_captions_are_read_where_nothing_else_is_known(tmp_path: Path) -> None:
    from medvl_jobs.eval.reading import read_facts

    made = small()
    truth = made.examples[0].facts
    assert truth is not None
    made.examples[0] = type(made.examples[0])(made.examples[0].example_id, made.examples[0].caption, "g", None)
    storage = made.store(tmp_path / "store")
    first = read_evidence(made.settings, storage, made.keys, tmp_path / "scratch", read_facts).examples[0]
    assert (first.modality, first.body_part, first.from_caption) == (truth.modality, truth.body_part, True)
