"""ROUGE and BLEU exactly as LLaMA-Factory prints them, so that a run can be held against the published numbers.

Source: ``ComputeSimilarity`` in LLaMA-Factory's ``train/sft/metric.py``, with the libraries it uses: jieba 0.42.1,
rouge-chinese 1.0.3, nltk 3.10. ``tests/golden/similarity.jsonl`` holds 300 pairs that its own class scored.

What to know before quoting these numbers: BLEU counts *characters*, so two unrelated captions in the same style reach
about 50; ROUGE-1 and ROUGE-2 count each n-gram once, however often it is said.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np

from medvl_jobs.errors import DataError
from medvl_jobs.eval.parallel import Pair, Score, paired, score_in_parallel

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


def score_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[Score]:
    """The four scores of each pair, in percent with 4 decimals. An empty text scores 0 and stays in the list.

    Many pairs are scored by several processes, to the same numbers. Raises `DataError` when the texts are no pairs, and
    what `score_in_parallel` raises.
    """
    return score_in_parallel(score_here, paired(predictions, references))


def score_here(pairs: Sequence[Pair]) -> list[Score]:
    """`score_pairs` in this process."""
    tools = _tools()
    return [
        {name: round(value * 100, 4) for name, value in {**_rouge(tools, *pair), "bleu-4": _bleu(*pair)}.items()}
        for pair in pairs
    ]


def aggregate(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The unrounded mean of each score over all pairs, under the names of ``predict_results.json``."""
    if not scores:
        raise DataError("no pair to average", remedy="evaluate at least one example")
    return {f"predict_{name}": float(np.mean([score[name] for score in scores])) for name in METRICS}


def _rouge(tools: _Tools, prediction: str, reference: str) -> Score:
    """F = 2PR / (P + R + 1e-8) of distinct 1-grams, distinct 2-grams and the longest common subsequence of words.

    Words are jieba's; rouge-chinese then cuts sentences at Chinese full stops, question and exclamation marks, at "?",
    six dots, two ellipses and newlines (never at "."), and lets n-grams run across them.
    """
    prediction, reference = tools.words(prediction), tools.words(reference)
    if not prediction.split() or not reference.split():
        return dict.fromkeys(METRICS[:3], 0.0)
    said, true = _flat_words(tools, prediction), _flat_words(tools, reference)
    # rouge-chinese fills a dict with (words + 1)² entries for its LCS: 42 % of the incumbent's time, and gigabytes on
    # an answer that never ends.
    return {
        "rouge-1": _f_of_distinct(set(said), set(true)),
        "rouge-2": _f_of_distinct(set(pairwise(said)), set(pairwise(true))),
        "rouge-l": _f(lcs_length(true, said), len(said), len(true)),
    }


def _f_of_distinct(said: set[Any], true: set[Any]) -> float:
    return _f(len(said & true), len(said), len(true))


def _f(common: int, said: int, true: int) -> float:
    """rouge-chinese's order of operations, on which the last digit depends."""
    precision, recall = (common / count if count else 0.0 for count in (said, true))
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _flat_words(tools: _Tools, text: str) -> list[str]:
    """The words that rouge-chinese counts: those of all its sentences; a blank sentence counts as one empty word."""
    sentences = (" ".join(sentence.split()) for sentence in tools.sentences(text) if sentence)
    return [word for sentence in sentences for word in sentence.split(" ")]


def lcs_length(left: Sequence[str], right: Sequence[str]) -> int:
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


def _bleu(prediction: str, reference: str) -> float:
    """4-gram BLEU over characters: BP · exp(Σ ¼ log pₙ), NIST smoothing; 0 when no character matches.

    nltk's ``sentence_bleu`` with ``SmoothingFunction().method3``, operation by operation: it makes a tuple of every
    n-gram and a fraction of every precision, and takes twice the time.
    """
    said, true = list(prediction), list(reference)
    logs, halvings = [], 0
    for order in range(1, 5):
        counts_said, counts_true = Counter(said), Counter(true)
        matches = sum(
            [min(counts_said[ngram], counts_true[ngram]) for ngram in counts_said.keys() & counts_true.keys()]
        )
        if matches == 0 and order == 1:
            return 0.0
        if matches == 0:
            halvings += 1
        total = max(1, len(said))
        logs.append(0.25 * math.log(matches / total if matches else 1 / (2**halvings * total)))
        said, true = list(map(add, said, prediction[order:])), list(map(add, true, reference[order:]))
    longer = len(prediction) > len(reference)
    return (1.0 if longer else math.exp(1 - len(reference) / len(prediction))) * math.exp(math.fsum(logs))


@dataclass(frozen=True)
class _Tools:
    """The incumbent's libraries, loaded."""

    words: Callable[[str], str]
    """Words with a space between; a space or newline of the text is a word of its own."""
    sentences: Callable[[str], list[str]]


@cache
def _tools() -> _Tools:
    """Load once per process, and late: jieba's dictionary takes most of a second."""
    with _old_code_allowed():
        import jieba
        from rouge_chinese import Rouge

    tokenizer = jieba.Tokenizer()
    # Trap: left alone, jieba reads its dictionary from <tmp>/jieba.cache, which anyone may have put there and which
    # decides every number, writes it where a read-only container refuses, and logs all this to stderr. Built from the
    # package's own file the dictionary is the same.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True

    @lru_cache(2**16)
    def words_of_block(block: str) -> str:
        return " ".join(tokenizer.cut(block))

    # jieba splits a text here first and cuts each block by itself. An English word is such a block, and comes again.
    blocks = jieba.re_han_default.split
    return _Tools(
        words=lambda text: " ".join([words_of_block(block) for block in blocks(text) if block]),
        sentences=Rouge().cut_sent,
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
