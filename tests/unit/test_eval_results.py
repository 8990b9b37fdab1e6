from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.records import CLAIMS, SCORES, Prediction
from medvl_jobs.eval.claims import claims_parquet, judge
from medvl_jobs.eval.job import _one_of_all
from medvl_jobs.eval.predict import Outcome
from medvl_jobs.eval.results import Scores, predict_results, score, scores_parquet
from medvl_jobs.storage.local import LocalStorage

LABEL = "The image is an axial CT slice of the chest."
PREDICTIONS = [
    Prediction("a", "a", "An axial CT of the chest.", LABEL, 8, "stop"),
    Prediction("b", "b", "", LABEL, 0, "stop"),
    Prediction("c", "c", "A coronal MR of the brain.", "words without any fact", 9, "length"),
]
OUTCOME = Outcome(PREDICTIONS, seconds=2.0, steps=3, load_seconds=1.5, preparation_seconds=0.25)


def scored(predictions: Sequence[Prediction], truths: Mapping[str, str | None]) -> Scores:
    return score(predictions, judge(predictions, truths))


def test_the_known_truth_goes_before_the_caption() -> None:
    known = Facts(modality="CT", plane="sagittal").to_json()
    scores = scored(PREDICTIONS[:1], {"a": known})
    assert scores[0]["fact_plane"] == 0.0
    assert scores[0]["fact_modality"] == 100.0
    assert scored(PREDICTIONS[:1], {"a": None})[0]["fact_plane"] == 100.0


def test_an_empty_answer_is_scored_and_a_truth_without_facts_is_not() -> None:
    empty, without = scored(PREDICTIONS, {"a": None, "b": None, "c": None})[1:]
    assert (empty["facts_f1"], empty["rouge-1"], empty["bleu-4"]) == (0.0, 0.0, 0.0)
    assert "facts_f1" not in without
    assert "rouge-1" in without


def test_results_are_means_and_rates() -> None:
    scores = scored(PREDICTIONS, {"a": None, "b": None, "c": None})
    results = predict_results(OUTCOME, scores, runtime=4.0)
    assert results["predict_samples_per_second"] == 0.75
    assert results["predict_steps_per_second"] == 0.75
    assert results["predict_model_load_time"] == 1.5
    assert results["predict_model_preparation_time"] == 0.25
    assert results["predict_new_tokens_per_second"] == 8.5
    assert results["predict_cut_off_share"] == pytest.approx(1 / 3)
    assert results["predict_facts_f1"] == pytest.approx(scores[0]["facts_f1"] / 2)  # over the two that have facts
    assert results["predict_rouge-1"] == pytest.approx(sum(each["rouge-1"] for each in scores) / 3)


def test_results_have_the_standard_scores_and_what_is_of_all_answers() -> None:
    scores = scored(PREDICTIONS, {"a": None, "b": None, "c": None})
    assert all({"rouge1", "rouge2", "rougeL", "sentence_bleu", "length_ratio"} <= set(each) for each in scores)
    results = predict_results(OUTCOME, scores, runtime=4.0)
    assert results["predict_rougeL"] == pytest.approx(sum(each["rougeL"] for each in scores) / 3)
    assert results["predict_sentence_bleu"] == pytest.approx(sum(each["sentence_bleu"] for each in scores) / 3)
    assert 0 < float(results["predict_sacrebleu"]) < 100
    assert str(results["predict_sacrebleu_signature"]).startswith(
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"
    )
    assert results["predict_length_ratio"] == pytest.approx((6 + 0 + 6) / (10 + 10 + 4))
    assert results["predict_distinct_1"] == pytest.approx(100 * 10 / 12)  # "of" and "the" twice
    assert not any(name.endswith("_without_think") for name in results)


def test_a_thought_is_scored_and_once_more_without() -> None:
    thinking = [replace(PREDICTIONS[0], predict="<think>\n\n</think>\n\nAn axial CT of the chest."), *PREDICTIONS[1:]]
    with_thought, *others = scored(thinking, {"a": None, "b": None, "c": None})
    plain = scored(PREDICTIONS[:1], {"a": None})[0]
    assert with_thought["rouge-l"] != plain["rouge-l"]
    assert with_thought["rouge-l_without_think"] == plain["rouge-l"]
    assert not any(name.endswith("_without_think") for each in others for name in each)
    results = predict_results(replace(OUTCOME, predictions=thinking), [with_thought, *others], runtime=4.0)
    of_others = sum(each["rouge-l"] for each in others)  # where nobody thinks it is the score itself
    assert results["predict_rouge-l_without_think"] == pytest.approx((plain["rouge-l"] + of_others) / 3)


def test_scores_file_has_a_row_per_score() -> None:
    scores = scored(PREDICTIONS, {"a": None, "b": None, "c": None})
    table = pq.read_table(io.BytesIO(scores_parquet(PREDICTIONS, scores)))
    assert table.schema.equals(SCORES)
    assert table.num_rows == sum(len(each) for each in scores)


def test_the_share_of_hedged_claims_is_counted_and_costs_nothing() -> None:
    label = "A CT of the chest with pneumonia."
    answers = [
        Prediction("a", "a", "A chest CT, pneumonia is likely.", label, 8, "stop"),
        Prediction("b", "b", "A chest CT with pneumonia.", label, 8, "stop"),
        Prediction("c", "c", "", label, 0, "stop"),
    ]
    scores = scored(answers, {"a": None, "b": None, "c": None})
    assert [each["facts_hedged"] for each in scores] == [pytest.approx(100 / 3), 0, 0]
    assert [each["facts_f1"] for each in scores] == [100, 100, 0]


def test_every_claim_of_every_answer_has_its_characters_and_its_verdict() -> None:
    answers = [
        Prediction("a", "a", "胸部冠状位CT，左肺占图像约20%。", LABEL, 8, "stop"),
        Prediction("b", "b", "Nothing to see.", LABEL, 8, "stop"),
        Prediction("c", "c", "A CT.", "words without any fact", 8, "stop"),
    ]
    data, count = claims_parquet(answers, judge(answers, {"a": None, "b": None, "c": None}))
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.equals(CLAIMS)
    assert table.num_rows == count
    told = [
        (answers[0].predict[row["start"] : row["end"]], row["field"], row["value"], row["right"])
        for row in table.to_pylist()
    ]
    assert told == [
        ("胸部", "body_part", "chest", True),
        ("冠状", "plane", "coronal", False),
        ("CT", "modality", "CT", True),
        ("左肺", "structure", "left lung", False),
    ]
    assert set(table["example_id"].to_pylist()) == {"a"}  # what the truth cannot judge has no verdict


def test_two_pods_that_score_together_have_one_file_of_results(tmp_path: Path) -> None:
    """The second keeps the first's times; scores of other answers, or half a file, are replaced."""
    storage = LocalStorage(tmp_path)
    scores = scored(PREDICTIONS, {"a": None, "b": None, "c": None})
    ours, theirs = (predict_results(OUTCOME, scores, runtime) for runtime in (4.0, 5.0))
    first = _one_of_all(ours, storage, "x")
    assert json.loads(first) == ours != theirs
    assert _one_of_all(theirs, storage, "x") == first
    assert json.loads(_one_of_all({**theirs, "predict_rouge-1": 99.0}, storage, "x"))["predict_rouge-1"] == 99.0
    for broken in (first[:40], b"[]"):
        storage.write_bytes("x/predict_results.json", broken)
        assert json.loads(_one_of_all(theirs, storage, "x")) == theirs
