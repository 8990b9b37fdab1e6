"""ROUGE and BLEU exactly as LLaMA-Factory prints them, so that a run can be held against the published numbers.

Source: ``ComputeSimilarity`` in LLaMA-Factory's ``train/sft/metric.py``, with the libraries it uses: jieba 0.42.1,
rouge-chinese 1.0.3, nltk 3.10. ``tests/golden/similarity.jsonl`` holds 300 pairs that its own class scored.

What to know before quoting these numbers: BLEU counts *characters*, so two unrelated captions in the same style reach
about 50; ROUGE-1 and ROUGE-2 count each n-gram once, however often it is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from medvl_jobs.errors import DataError

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


def score_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
    """The four scores of each pair, in percent with 4 decimals. An empty text scores 0 and stays in the list."""
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references are no pairs",
            remedy="score every prediction against its own reference; a failed one is an empty text",
        )
    tools = _tools()
    return [
        {name: round(value * 100, 4) for name, value in {**_rouge(tools, *pair), "bleu-4": _bleu(tools, *pair)}.items()}
        for pair in zip(predictions, references, strict=True)
    ]


def aggregate(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The unrounded mean of each score over all pairs, under the names of ``predict_results.json``."""
    if not scores:
        raise DataError("no pair to average", remedy="evaluate at least one example")
    return {f"predict_{name}": float(np.mean([score[name] for score in scores])) for name in METRICS}


def _rouge(tools: _Tools, prediction: str, reference: str) -> dict[str, float]:
    """F = 2PR / (P + R + 1e-8) of distinct 1-grams, distinct 2-grams and the longest common subsequence of words.

    Words are jieba's; rouge-chinese then cuts sentences at Chinese full stops, question and exclamation marks, at "?",
    six dots, two ellipses and newlines (never at "."), and lets n-grams run across them.
    """
    prediction, reference = tools.words(prediction), tools.words(reference)
    if not prediction.split() or not reference.split():
        return dict.fromkeys(METRICS[:3], 0.0)
    # rouge-chinese fills a dict with (words + 1)² entries for its LCS: 42 % of the incumbent's time, and gigabytes on
    # an answer that never ends. Its n-grams are taken as they are, its LCS length is computed another way.
    scores = {name: score["f"] for name, score in tools.rouge.get_scores(prediction, reference)[0].items()}
    said, true = _flat_words(tools, prediction), _flat_words(tools, reference)
    recall, precision = (_lcs_length(true, said) / len(words) for words in (true, said))
    return {**scores, "rouge-l": 2.0 * ((precision * recall) / (precision + recall + 1e-8))}


def _flat_words(tools: _Tools, text: str) -> list[str]:
    """The words that rouge-chinese counts: those of all its sentences; a blank sentence counts as one empty word."""
    sentences = (" ".join(sentence.split()) for sentence in tools.rouge.cut_sent(text) if sentence)
    return [word for sentence in sentences for word in sentence.split(" ")]


def _lcs_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the usual table per step in the bits of one integer.

    Exact. Hyyrö 2004, "Bit-parallel LCS-length computation revisited": a zero bit in ``row`` marks where the table
    grows by one along ``left``, so the zeros of the last row count the length.
    """
    where: dict[str, int] = {}
    for index, word in enumerate(left):
        where[word] = where.get(word, 0) | 1 << index
    ones = row = (1 << len(left)) - 1
    for word in right:
        matches = row & where.get(word, 0)
        row = ((row + matches) | (row - matches)) & ones
    return len(left) - row.bit_count()


def _bleu(tools: _Tools, prediction: str, reference: str) -> float:
    """4-gram BLEU over characters: BP · exp(Σ ¼ log pₙ), NIST smoothing (``method3``); 0 when no character matches."""
    return float(tools.bleu([list(reference)], list(prediction)))  # nltk answers the int 0 for an empty text


@dataclass(frozen=True)
class _Tools:
    """The incumbent's libraries, loaded."""

    words: Callable[[str], str]
    """Words with a space between; a space or newline of the text is a word of its own."""
    rouge: Any
    bleu: Callable[[list[list[str]], list[str]], float]


@cache
def _tools() -> _Tools:
    """Load once per process, and late: jieba's dictionary takes most of a second."""
    with _old_code_allowed():
        import jieba
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
        from rouge_chinese import Rouge

    tokenizer = jieba.Tokenizer()
    # Trap: left alone, jieba reads its dictionary from <tmp>/jieba.cache, which anyone may have put there and which
    # decides every number, writes it where a read-only container refuses, and logs all this to stderr. Built from the
    # package's own file the dictionary is the same.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    smoothing = SmoothingFunction().method3
    return _Tools(
        words=lambda text: " ".join(tokenizer.cut(text)),
        rouge=Rouge(metrics=["rouge-1", "rouge-2"]),
        bleu=lambda references, said: sentence_bleu(references, said, smoothing_function=smoothing),
    )


@contextmanager
def _old_code_allowed() -> Iterator[None]:
    """Let jieba and rouge-chinese be compiled and imported; every other warning stays what it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="invalid escape sequence")
        warnings.filterwarnings("ignore", message=r'"\\.*" is an invalid escape sequence')  # Python 3.14's wording
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # jieba prefers it when it is there
        warnings.filterwarnings("ignore", message="Deprecated call to `pkg_resources")
        yield
