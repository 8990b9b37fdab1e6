"""``evaluate.load("medvl_jobs/eval/llamafactory_similarity").compute(predictions=[…], references=[…])``, offline."""

from __future__ import annotations

import datasets
import evaluate

from medvl_jobs.eval.similarity import METRICS, aggregate, score_pairs

_DESCRIPTION = """\
ROUGE-1, ROUGE-2, ROUGE-L and BLEU-4 as LLaMA-Factory's `ComputeSimilarity` gives them, to the last digit: words by
jieba, distinct n-grams, BLEU over characters. Means over all pairs, in percent."""
_INPUTS = """\
Args:
    predictions: list of texts; a failed answer is an empty text, and scores 0
    references: list of as many texts
Returns:
    dict of the floats `rouge-1`, `rouge-2`, `rouge-l`, `bleu-4`, from 0 to 100, not rounded
"""


class LlamafactorySimilarity(evaluate.Metric):
    """A thin shell around `score_pairs`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
            homepage="https://github.com/hiyouga/LLaMA-Factory",
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        means = aggregate(score_pairs(predictions, references))
        return {name: means[f"predict_{name}"] for name in METRICS}
