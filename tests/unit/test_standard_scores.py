"""sacrebleu, rouge-score, lengths and distinct n-grams: as the libraries give them, and sensible on Chinese."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from medvl_jobs.errors import DataError
from medvl_jobs.eval.similarity import score_pairs as llamafactory_scores
from medvl_jobs.eval.standard import (
    bleu_tokenizer,
    corpus_scores,
    score_here,
    score_pairs,
    without_think_scores,
)
from medvl_jobs.eval.thoughts import without_think

GOLDEN = Path(__file__).parents[1] / "golden" / "similarity.jsonl"
THINK = "<think>\n\n</think>\n\n"
ZH = "左肺下叶可见一个结节,边缘有毛刺。"
EN = "The image is an axial CT slice of the chest."


@cache
def golden() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()[:-1]]


def test_english_pairs_score_what_the_libraries_say() -> None:
    pairs = [(each["pred"], each["label"]) for each in golden() if (each["pred"] + each["label"]).isascii()]
    assert len(pairs) > 100
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for (prediction, reference), score in zip(pairs, score_here(pairs, "13a"), strict=True):
        for name, value in rouge.score(reference, prediction).items():
            assert score[name] == 100 * value.fmeasure
        assert score["sentence_bleu"] == sacrebleu.sentence_bleu(prediction, [reference]).score
    predictions, references = map(list, zip(*pairs, strict=True))
    assert corpus_scores(predictions, references)["sacrebleu"] == sacrebleu.corpus_bleu(predictions, [references]).score


def test_every_golden_pair_has_finite_scores_in_range() -> None:
    pairs = golden()
    scores = score_pairs([each["pred"] for each in pairs], [each["label"] for each in pairs])
    for pair, score in zip(pairs, scores, strict=True):
        assert ("length_ratio" in score) == bool(pair["label"].strip())
        assert score.pop("length_ratio", 0.0) >= 0
        assert set(score) == {"rouge1", "rouge2", "rougeL", "sentence_bleu"}
        assert all(type(value) is float and 0 <= value < 100.00001 for value in score.values()), pair


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=4))
def test_any_text_has_finite_scores(pairs: list[tuple[str, str]]) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    every = [value for score in score_pairs(predictions, references) for value in score.values()]
    every += [value for value in corpus_scores(predictions, references).values() if not isinstance(value, str)]
    assert all(math.isfinite(value) and value >= 0 for value in every)


def test_chinese_references_bring_their_tokenizer_and_a_stray_character_does_not() -> None:
    assert bleu_tokenizer([ZH, ZH, EN]) == "zh"
    assert bleu_tokenizer([EN, EN, ZH]) == "13a"
    assert bleu_tokenizer([]) == "13a"
    assert "tok:zh" in str(corpus_scores([ZH], [ZH])["sacrebleu_signature"])
    assert "tok:13a" in str(corpus_scores([EN], [EN])["sacrebleu_signature"])


def test_a_chinese_answer_that_is_right_scores_like_one() -> None:
    [same, half, other] = score_pairs([ZH, ZH[:8], "大脑"], [ZH, ZH, ZH])
    for name in ("rouge1", "rougeL", "sentence_bleu"):
        assert same[name] == pytest.approx(100)
        assert 0 < half[name] < 100
        assert other[name] == 0
    assert same["length_ratio"] == 1


def test_a_chinese_answer_to_an_english_reference_scores_nothing_and_is_not_dropped() -> None:
    [score] = score_pairs([ZH], [EN])
    assert (score["rouge1"], score["rougeL"], score["sentence_bleu"]) == (0, 0, 0)
    assert score["length_ratio"] > 1


def test_an_empty_answer_scores_zero_everywhere() -> None:
    [score] = score_pairs([""], [EN])
    assert set(score.values()) == {0.0}
    assert corpus_scores(["", ""], [EN, EN]) == {
        "sacrebleu": 0.0, "sacrebleu_signature": corpus_scores([EN], [EN])["sacrebleu_signature"], "distinct_1": 0.0,
        "distinct_2": 0.0, "length_ratio": 0.0,
    }  # fmt: skip


def test_distinct_n_counts_over_all_answers_and_never_across_two() -> None:
    scores = corpus_scores(["a b a", "A b"], ["x y", "x y z"])
    assert scores["distinct_1"] == pytest.approx(100 * 2 / 5)  # a, b
    assert scores["distinct_2"] == pytest.approx(100 * 2 / 3)  # a b, b a, a b
    assert scores["length_ratio"] == 1


def test_no_pair_has_no_corpus_score() -> None:
    assert score_pairs([], []) == []
    assert without_think_scores([], []) == []
    with pytest.raises(DataError, match="no pair"):
        corpus_scores([], [])
    for scorer in (score_pairs, corpus_scores, without_think_scores):
        with pytest.raises(DataError, match="2 predictions and 1 references"):
            scorer(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (EN, EN),
        ("", ""),
        (THINK + EN, EN),
        (f"\n<think>a lung?\nno</think>{EN}", EN),
        (f"a lung? no\n</think>\n\n{EN}", EN),  # the template said <think>
        ("<think>a lung, or", ""),  # cut off while thinking
        (f"{EN} <think>hm</think>", f"{EN} <think>hm</think>"),  # not in front
        (f"{THINK}{THINK}{EN}", f"{THINK}{EN}"),
    ],
)
def test_only_a_leading_thought_is_left_out(text: str, rest: str) -> None:
    assert without_think(text) == rest


def test_the_prefix_is_worth_points_and_only_who_has_it_is_scored_without() -> None:
    other = "A coronal MR of the brain."
    predictions, references = [THINK + other, EN, EN], [THINK + EN, EN, THINK + EN]
    first, second, third = without_think_scores(predictions, references)
    [without], [with_prefix] = llamafactory_scores([other], [EN]), llamafactory_scores(predictions[:1], references[:1])
    assert first == {f"{name}_without_think": value for name, value in without.items()}
    assert all(with_prefix[name] > without[name] for name in without)
    assert second == {}
    assert third == dict.fromkeys(first, 100.0)
