"""The text scores that papers quote, beside LLaMA-Factory's own: sacrebleu, rouge-score, lengths, distinct n-grams.

All are percentages from 0 to 100 but for the length ratio, 1 where both texts are equally long. A *word* is what stands
between spaces, and each Chinese character.

Sources: sacrebleu (Post 2018), which names its settings in a signature; rouge-score, Google's ROUGE-1.5.5 (Lin 2004),
without a stemmer; distinct-n (Li et al. 2016, "A Diversity-Promoting Objective Function").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from medvl_jobs.errors import DataError
from medvl_jobs.eval.parallel import Pair, Score, paired, score_in_parallel
from medvl_jobs.eval.similarity import METRICS as LLAMAFACTORY_METRICS
from medvl_jobs.eval.similarity import score_pairs as llamafactory_scores
from medvl_jobs.eval.thoughts import without_think

WITHOUT_THINK = "_without_think"
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_CHINESE = re.compile(f"[{_HAN}]")
_WORD = re.compile(rf"[{_HAN}]|[^\s{_HAN}]+")
_ROUGE_WORD = re.compile(f"[{_HAN}]|[a-z0-9]+")


def score_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[Score]:
    """Of each pair ``rouge1``, ``rouge2``, ``rougeL``, ``sentence_bleu`` and ``length_ratio``.

    ``length_ratio``, words of the answer over words of the reference, is left out where the reference has none. An
    empty answer scores 0 everywhere. Many pairs are scored by several processes. Raises `DataError` when the texts are
    no pairs, and what `score_in_parallel` raises.
    """
    scorer = partial(score_here, bleu_tokenizer=bleu_tokenizer(references))
    return score_in_parallel(scorer, paired(predictions, references))


def score_here(pairs: Sequence[Pair], bleu_tokenizer: str) -> list[Score]:
    """`score_pairs` in this process."""
    bleu, rouge = _bleu(bleu_tokenizer, of_sentences=True), _rouge()
    scores = []
    for prediction, reference in pairs:
        score = {name: 100.0 * found.fmeasure for name, found in rouge.score(reference, prediction).items()}
        score["sentence_bleu"] = bleu.sentence_score(prediction, [reference]).score
        if words := len(_WORD.findall(reference)):
            score["length_ratio"] = len(_WORD.findall(prediction)) / words
        scores.append(score)
    return scores


def corpus_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """Of all pairs together: ``sacrebleu`` and its signature, ``distinct_1``, ``distinct_2`` and ``length_ratio``.

    ``distinct_n`` is the share of n-grams of words that are different ones, over all answers: 100 when no n-gram comes
    twice, next to 0 when all answers are one sentence. ``length_ratio`` is all words over all words. Raises `DataError`
    when the texts are no pairs, or there are none.
    """
    if not paired(predictions, references):
        raise DataError("no pair to score", remedy="evaluate at least one example")
    bleu = _bleu(bleu_tokenizer(references), of_sentences=False)
    score = bleu.corpus_score(list(predictions), [list(references)]).score
    answers = [_WORD.findall(prediction.lower()) for prediction in predictions]
    true_words = sum(len(_WORD.findall(reference)) for reference in references)
    length = {"length_ratio": sum(map(len, answers)) / true_words} if true_words else {}
    return {
        "sacrebleu": score,
        "sacrebleu_signature": str(bleu.get_signature()),
        "distinct_1": _distinct(answers, 1),
        "distinct_2": _distinct(answers, 2),
        **length,
    }


def without_think_scores(predictions: Sequence[str], references: Sequence[str]) -> list[Score]:
    """LLaMA-Factory's scores of each pair without leading thoughts, under ``rouge-1_without_think`` and so on.

    The same prefix before answer and reference, an empty thought, is worth several points to both. A pair of which
    neither text begins with one gets no score: it would be the same again.
    """
    pairs = [(without_think(said), without_think(true)) for said, true in paired(predictions, references)]
    differ = [at for at, pair in enumerate(pairs) if pair != (predictions[at], references[at])]
    scores: list[Score] = [{} for _ in pairs]
    stripped = llamafactory_scores([pairs[at][0] for at in differ], [pairs[at][1] for at in differ])
    for at, score in zip(differ, stripped, strict=True):
        scores[at] = {name + WITHOUT_THINK: score[name] for name in LLAMAFACTORY_METRICS}
    return scores


def bleu_tokenizer(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for these references: ``zh`` where most have Chinese in them, else its default, ``13a``.

    13a takes a Chinese sentence for one word. Chinese answers to English references change nothing: none of their words
    is in the reference, whatever a word is.
    """
    return "zh" if 2 * sum(bool(_CHINESE.search(text)) for text in references) > len(references) else "13a"


class _Words:
    """The tokenizer for rouge-score.

    Trap: its own drops whatever is not a-z or 0-9, and a Chinese answer that is word for word right scores 0. Here each
    Chinese character is a word besides; a text without one has the same words as ever.
    """

    def tokenize(self, text: str) -> list[str]:
        """The words in their order, in lower case."""
        return _ROUGE_WORD.findall(text.lower())


def _distinct(answers: Sequence[Sequence[str]], n: int) -> float:
    ngrams = [tuple(words[at : at + n]) for words in answers for at in range(len(words) - n + 1)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@cache
def _bleu(tokenizer: str, *, of_sentences: bool) -> BLEU:
    """``effective_order``: a sentence of three words has no 4-grams. ``force``: no warning about spaced full stops."""
    return BLEU(tokenize=tokenizer, effective_order=of_sentences, force=True)


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())
