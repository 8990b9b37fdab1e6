"""The incumbent's numbers, to the last digit."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from medvl_jobs.errors import DataError
from medvl_jobs.eval.similarity import METRICS, _bleu, _old_code_allowed, aggregate, lcs_length, score_pairs

with _old_code_allowed():
    import jieba
    from rouge_chinese import Rouge

GOLDEN = Path(__file__).parents[1] / "golden" / "similarity.jsonl"


@cache
def golden() -> tuple[list[dict[str, Any]], dict[str, float]]:
    """300 pairs scored by LLaMA-Factory's own class, and their aggregate from the last line."""
    *pairs, last = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    return pairs, last["aggregate"]


def test_every_golden_pair_and_their_mean_are_equal_to_the_last_digit() -> None:
    pairs, mean = golden()
    scores = score_pairs([pair["pred"] for pair in pairs], [pair["label"] for pair in pairs])
    assert len(pairs) == 300
    assert scores == [{name: pair[name] for name in METRICS} for pair in pairs]
    assert aggregate(scores) == {f"predict_{name}": value for name, value in mean.items()}


@pytest.mark.parametrize(("prediction", "reference"), [("", ""), ("", "a lung"), ("a lung", ""), (" \n\t", "a lung")])
def test_an_empty_text_scores_zero_and_is_not_dropped(prediction: str, reference: str) -> None:
    [score] = score_pairs([prediction], [reference])
    assert list(score) == list(METRICS)
    assert all(type(value) is float for value in score.values())
    assert [score[name] for name in METRICS[:3]] == [0.0, 0.0, 0.0]


def test_predictions_without_references_are_refused() -> None:
    with pytest.raises(DataError, match="2 predictions and 1 references"):
        score_pairs(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no pair"):
        aggregate([])


def test_an_answer_that_never_ends_is_scored_in_linear_memory() -> None:
    [score] = score_pairs(["the lung " * 5000], ["the lung " * 3])
    assert 0 < score["rouge-l"] < 1


def slowlcs_length(left: list[str], right: list[str]) -> int:
    """The textbook's table."""
    row = [0] * (len(right) + 1)
    for word in left:
        above = row[:]
        for j, other in enumerate(right):
            row[j + 1] = above[j] + 1 if word == other else max(above[j + 1], row[j])
    return row[-1]


@given(st.lists(st.sampled_from("abcde"), max_size=80), st.lists(st.sampled_from("abcdef"), max_size=80))
def test_the_bit_parallel_subsequence_is_the_textbooks(left: list[str], right: list[str]) -> None:
    assert lcs_length(left, right) == slowlcs_length(left, right)


@given(st.text(alphabet="ab 肺。é🙂\n", max_size=40), st.text(alphabet="ab 肺。é🙂\n", max_size=40))
def test_bleu_is_nltks_to_the_last_digit(prediction: str, reference: str) -> None:
    smoothing = SmoothingFunction().method3
    theirs = sentence_bleu([list(reference)], list(prediction), smoothing_function=smoothing)
    assert _bleu(prediction, reference) == theirs


CAPTION = st.text(alphabet="ab 肺结节。？”!.…?\n\r\t\u3000🙂-%5", max_size=40)


@given(CAPTION, CAPTION)
def test_rouge_is_rouge_chineses_to_the_last_digit(prediction: str, reference: str) -> None:
    """Words by jieba as it cuts a whole text, not block by block."""
    said, true = " ".join(whole_text_words(prediction)), " ".join(whole_text_words(reference))
    [score] = score_pairs([prediction], [reference])
    if not said.split() or not true.split():
        assert [score[name] for name in METRICS[:3]] == [0.0, 0.0, 0.0]
        return
    for name, theirs in Rouge().get_scores(said, true)[0].items():
        assert score[name] == round(theirs["f"] * 100, 4)


@cache
def jiebas_tokenizer() -> Any:
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def whole_text_words(text: str) -> list[str]:
    return list(jiebas_tokenizer().cut(text))


def test_a_fresh_machine_neither_warns_nor_logs_nor_leaves_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled anew with warnings as errors, and no ``jieba.cache`` in the temporary folder afterwards."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "pyc"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = "from medvl_jobs.eval.similarity import score_pairs; print(score_pairs(['肺'], ['肺'])[0]['rouge-1'])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "100.0\n", "")
    assert not (tmp_path / "jieba.cache").exists()
