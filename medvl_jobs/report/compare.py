"""From answers and scores to a comparison: pure, and the same for the same evidence.

Every variant is judged on the same examples, and none is dropped: an example that a variant did not answer scores 0 for
it, as an empty answer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvl_jobs.errors import DataError
from medvl_jobs.report.inputs import Answers, Example
from medvl_jobs.report.metrics import HEADLINES, MAIN, VARIANT_LABELS, describe, in_order
from medvl_jobs.report.shape import Difference, Estimate, Headline, MetricRow, Slice, VariantSummary
from medvl_jobs.report.stats import mean_interval, paired_bootstrap
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.report import ReportSettings

Floats = NDArray[np.float64]

DECIMALS = 4
"""Of every number in ``report.json``: LLaMA-Factory's own, and few enough to be equal on every machine."""


@dataclass(frozen=True)
class PairedScores:
    """One score of all variants, on the examples that it applies to."""

    metric: str
    examples: tuple[Example, ...]
    values: dict[Variant, Floats]
    """One value per example."""

    def only(self, modality: str) -> PairedScores:
        """The examples of one modality."""
        chosen = [number for number, example in enumerate(self.examples) if example.modality == modality]
        examples = tuple(self.examples[number] for number in chosen)
        return PairedScores(self.metric, examples, {variant: each[chosen] for variant, each in self.values.items()})

    @property
    def groups(self) -> list[str]:
        """The group of each example."""
        return [example.group for example in self.examples]


def pair(examples: Sequence[Example], answers: Mapping[Variant, Answers]) -> list[PairedScores]:
    """All scores, in the order of the table.

    A score applies to an example when it was computed for any variant: ``fact_finding`` has no value where the truth
    states no finding, whatever was answered. A variant without a value there did not answer, and gets 0. Where nobody
    answered, every score applies.
    """
    unanswered = {e.example_id for e in examples if not any(e.example_id in a.predictions for a in answers.values())}
    paired = []
    for metric in in_order({metric for given in answers.values() for metric in given.scores}):
        scores = {variant: given.scores.get(metric, {}) for variant, given in answers.items()}
        scored = unanswered.union(*scores.values())
        applies = tuple(example for example in examples if example.example_id in scored)
        values = {
            variant: np.array([by_id.get(example.example_id, 0.0) for example in applies])
            for variant, by_id in scores.items()
        }
        paired.append(PairedScores(metric, applies, values))
    if not any(each.metric in HEADLINES for each in paired):
        remedy = "run `medvl eval` again with this version of medvl"
        raise DataError(f"none of the scores {', '.join(HEADLINES)} was computed", remedy=remedy)
    return paired


def overall(paired: Sequence[PairedScores], examples: Sequence[Example], settings: ReportSettings) -> Slice:
    """The comparison on all examples, in all scores."""
    return _slice("all", paired, examples, settings)


def by_modality(paired: Sequence[PairedScores], examples: Sequence[Example], settings: ReportSettings) -> list[Slice]:
    """The comparison per modality, the most frequent first, in the main scores."""
    members: dict[str, list[Example]] = {}
    for example in examples:
        members.setdefault(example.modality, []).append(example)
    main = [each for each in paired if each.metric in MAIN]
    slices = []
    for modality, those in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        # A modality whose truths state nothing has no facts scores at all; another score is then its headline.
        chosen = [each for each in (scores.only(modality) for scores in main) if each.examples]
        if any(each.metric in HEADLINES for each in chosen):
            slices.append(_slice(modality, chosen, those, settings))
    return slices


def _slice(name: str, paired: Sequence[PairedScores], examples: Sequence[Example], settings: ReportSettings) -> Slice:
    by_name = {each.metric: each for each in paired}
    return {
        "name": name,
        "examples": len(examples),
        "groups": len({example.group for example in examples}),
        "headline": _headline(next(by_name[metric] for metric in HEADLINES if metric in by_name), settings),
        "metrics": [_metric_row(each, settings) for each in paired],
    }


def _headline(paired: PairedScores, settings: ReportSettings) -> Headline:
    shuffled = Variant.TUNED_SHUFFLED
    return {
        "metric": paired.metric,
        "label": describe(paired.metric).label,
        "variants": {variant.value: _estimate(paired, variant, settings) for variant in paired.values},
        "gain": _difference(paired, Variant.TUNED, Variant.BASE, settings),
        "drop": _difference(paired, Variant.TUNED, shuffled, settings) if shuffled in paired.values else None,
    }


def _metric_row(paired: PairedScores, settings: ReportSettings) -> MetricRow:
    metric = describe(paired.metric)
    return {
        "metric": paired.metric,
        "label": metric.label,
        "family": metric.family,
        "higher_is_better": metric.higher_is_better,
        "examples": len(paired.examples),
        "means": {variant.value: _round(values.mean()) for variant, values in paired.values.items()},
        "difference": _difference(paired, Variant.TUNED, Variant.BASE, settings),
    }


def _estimate(paired: PairedScores, variant: Variant, settings: ReportSettings) -> Estimate:
    found = mean_interval(paired.values[variant], paired.groups, resamples=settings.resamples, seed=settings.seed)
    certain = found.groups > 1
    return {
        "value": _round(found.mean),
        "low": _round(found.low) if certain else None,
        "high": _round(found.high) if certain else None,
    }


def _difference(paired: PairedScores, first: Variant, second: Variant, settings: ReportSettings) -> Difference:
    """``first`` minus ``second``. One group has no spread to resample: its interval is unknown, not of width 0."""
    found = paired_bootstrap(
        paired.values[second], paired.values[first], paired.groups, resamples=settings.resamples, seed=settings.seed
    )
    certain, above = found.groups > 1, found.probability_tuned_better
    better = above if describe(paired.metric).higher_is_better else 1 - above
    return {
        "value": _round(found.difference),
        "low": _round(found.low) if certain else None,
        "high": _round(found.high) if certain else None,
        "probability_better": _round(better) if certain else None,
    }


def summarise(variant: Variant, answers: Answers, examples: Sequence[Example], keys: StageKeys) -> VariantSummary:
    """What became of the examples of one variant."""
    predictions = answers.predictions.values()
    return {
        "variant": variant.value,
        "label": VARIANT_LABELS[variant],
        "key": keys.eval[variant],
        "predicted": len(predictions),
        "missing": len(examples) - len(predictions),
        "empty": sum(not prediction.predict.strip() for prediction in predictions),
        "cut_off": sum(prediction.finish == "length" for prediction in predictions),
        "results": answers.results,
    }


def _round(value: float | np.floating) -> float:
    return round(float(value), DECIMALS) + 0.0  # + 0.0: no "-0.0" in the file
