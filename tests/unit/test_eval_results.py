from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from medvl_jobs.contracts.facts import Facts
from medvl_jobs.contracts.records import SCORES, Prediction
from medvl_jobs.eval.predict import Outcome
from medvl_jobs.eval.results import predict_results, score, scores_parquet

LABEL = "The image is an axial CT slice of the chest."
PREDICTIONS = [
    Prediction("a", "a", "An axial CT of the chest.", LABEL, 8, "stop"),
    Prediction("b", "b", "", LABEL, 0, "stop"),
    Prediction("c", "c", "A coronal MR of the brain.", "words without any fact", 9, "length"),
]
OUTCOME = Outcome(PREDICTIONS, seconds=2.0, steps=3, load_seconds=1.5, preparation_seconds=0.25)


def test_the_known_truth_goes_before_the_caption() -> None:
    known = Facts(modality="CT", plane="sagittal").to_json()
    scores = score(PREDICTIONS[:1], {"a": known})
    assert scores[0]["fact_plane"] == 0.0
    assert scores[0]["fact_modality"] == 100.0
    assert score(PREDICTIONS[:1], {"a": None})[0]["fact_plane"] == 100.0


def test_an_empty_answer_is_scored_and_a_truth_without_facts_is_not() -> None:
    empty, without = score(PREDICTIONS, {"a": None, "b": None, "c": None})[1:]
    assert (empty["facts_f1"], empty["rouge-1"], empty["bleu-4"]) == (0.0, 0.0, 0.0)
    assert "facts_f1" not in without
    assert "rouge-1" in without


def test_results_are_means_and_rates() -> None:
    scores = score(PREDICTIONS, {"a": None, "b": None, "c": None})
    results = predict_results(OUTCOME, scores, runtime=4.0)
    assert results["predict_samples_per_second"] == 0.75
    assert results["predict_steps_per_second"] == 0.75
    assert results["predict_model_load_time"] == 1.5
    assert results["predict_model_preparation_time"] == 0.25
    assert results["predict_new_tokens_per_second"] == 8.5
    assert results["predict_cut_off_share"] == pytest.approx(1 / 3)
    assert results["predict_facts_f1"] == pytest.approx(scores[0]["facts_f1"] / 2)  # over the two that have facts
    assert results["predict_rouge-1"] == pytest.approx(sum(each["rouge-1"] for each in scores) / 3)


def test_scores_file_has_a_row_per_score() -> None:
    scores = score(PREDICTIONS, {"a": None, "b": None, "c": None})
    table = pq.read_table(io.BytesIO(scores_parquet(PREDICTIONS, scores)))
    assert table.schema.equals(SCORES)
    assert table.num_rows == sum(len(each) for each in scores)
