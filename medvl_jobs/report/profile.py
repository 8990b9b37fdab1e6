"""What the answers are like: how many there are of which kind, how their scores are spread, how long they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medvl_jobs.report.answers import Answers
from medvl_jobs.report.compare import PairedScores, rounded
from medvl_jobs.report.inputs import Example
from medvl_jobs.report.metrics import Naming, describe
from medvl_jobs.report.shape import Distribution, LengthBin, VariantSummary
from medvl_jobs.report.slices import words
from medvl_jobs.settings.eval import Variant

SCORE_BINS = 20
LENGTH_BINS = 6
"""Bins of about equally many examples, by the words of their references."""
SIDES = (Variant.BASE, Variant.TUNED)


def summarise(variant: Variant, answers: Answers, examples: Sequence[Example], naming: Naming) -> VariantSummary:
    """What became of the examples of one variant."""
    predictions = answers.predictions.values()
    failed = sum(prediction.finish == "failed" for prediction in predictions)
    return {
        "variant": variant.value,
        "label": naming.label,
        "short": naming.short,
        "key": answers.manifest.key,
        "predicted": len(predictions),
        "missing": len(examples) - len(predictions),
        "failed": failed,
        "empty": sum(not p.predict.strip() for p in predictions if p.finish != "failed"),
        "cut_off": sum(prediction.finish == "length" for prediction in predictions),
        "results": answers.results,
    }


def distribution(paired: PairedScores) -> Distribution:
    """The histogram of a score from 0 to 100, of base and tuned."""
    edges = np.linspace(0, 100, SCORE_BINS + 1)
    counts = {v.value: np.histogram(paired.values[v].clip(0, 100), edges)[0].tolist() for v in SIDES}
    label = describe(paired.metric).label
    return {"metric": paired.metric, "label": label, "edges": edges.tolist(), "counts": counts}


def lengths(examples: Sequence[Example], answers: Mapping[Variant, Answers]) -> list[LengthBin]:
    """Quartiles of the answers' words where the references have about one length; what is missing has no words."""
    reference = np.array([words(example.caption) for example in examples])
    said = {variant: np.array([_words_said(answers[variant], example) for example in examples]) for variant in SIDES}
    inner = np.quantile(reference, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1], method="lower")
    bin_of = np.searchsorted(np.unique(inner), reference)
    bins: list[LengthBin] = []
    for number in np.unique(bin_of):
        chosen = bin_of == number
        quartiles = {v.value: np.quantile(each[chosen], (0.25, 0.5, 0.75)) for v, each in said.items()}
        bins.append(
            {
                "shortest": int(reference[chosen].min()),
                "longest": int(reference[chosen].max()),
                "median": rounded(np.median(reference[chosen])),
                "examples": int(chosen.sum()),
                "answers": {
                    name: {"low": rounded(low), "median": rounded(median), "high": rounded(high)}
                    for name, (low, median, high) in quartiles.items()
                },
            }
        )
    return bins


def _words_said(answers: Answers, example: Example) -> int:
    prediction = answers.predictions.get(example.example_id)
    return words(prediction.predict) if prediction else 0
