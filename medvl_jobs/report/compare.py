"""From answers and scores to a comparison: pure, and the same for the same evidence.

Every variant is judged on the same examples, and none is dropped: an example that a variant did not answer scores 0 for
it, as an empty answer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError
from medvl_jobs.report.answers import Answers, spoilt
from medvl_jobs.report.inputs import Example
from medvl_jobs.report.metrics import HEADLINES, MAIN, MEANINGS, WITHOUT_THINK, Naming, describe, in_order
from medvl_jobs.report.shape import Control, Difference, Estimate, Headline, MetricRow, Slice, Slicing
from medvl_jobs.report.slices import Division, divisions
from medvl_jobs.report.stats import FEWEST_GROUPS, Floats, Sample, Spread, spreads
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.report import ReportSettings

DECIMALS = 4
"""Of every number in ``report.json``: LLaMA-Factory's own, and few enough to be equal on every machine."""


@dataclass(frozen=True, eq=False)
class PairedScores:
    """One score of all variants, on the examples that it applies to."""

    metric: str
    examples: tuple[Example, ...]
    values: dict[Variant, Floats]
    """One value per example."""

    def only(self, part_of: Mapping[str, str], part: str) -> PairedScores:
        """The examples of one part."""
        chosen = [number for number, example in enumerate(self.examples) if part_of[example.example_id] == part]
        examples = tuple(self.examples[number] for number in chosen)
        return PairedScores(self.metric, examples, {variant: each[chosen] for variant, each in self.values.items()})

    def sample(self, *, headline: bool) -> Sample:
        """What its row of the table needs to be resampled; for a ``headline`` each variant, alone and beside tuned."""
        tuned = self.values[Variant.TUNED]
        others = [variant for variant in self.values if variant is not Variant.TUNED]
        wanted = others if headline else [Variant.BASE]
        values = {f"tuned - {variant}": tuned - self.values[variant] for variant in wanted}
        alone = {variant.value: each for variant, each in self.values.items()} if headline else {}
        return Sample([example.group for example in self.examples], {**values, **alone})


def pair(examples: Sequence[Example], answers: Mapping[Variant, Answers]) -> list[PairedScores]:
    """All scores, in the order of the table.

    A score applies to an example when it was computed for any variant: ``fact_finding`` has no value where the truth
    states no finding, whatever was answered. A variant without a value there did not answer, and gets 0. A score
    without the think block is not computed where there is none, and is then the score itself: both are about the same
    examples, not about those that a model chose by thinking. Where nobody answered, every score applies.

    A score that one variant was never given is left out, see `not_for_all`. Raises `DataError` for an answer without a
    score that the other answers to its example have.
    """
    unanswered = {e.example_id for e in examples if not any(e.example_id in a.predictions for a in answers.values())}
    paired = []
    for metric in in_order(_computed(answers)):
        scores = {variant: _scores(given, metric) for variant, given in answers.items()}
        if not all(scores.values()):
            continue
        scored = unanswered.union(*scores.values())
        applies = tuple(example for example in examples if example.example_id in scored)
        _refuse_holes(metric, applies, scores, answers)
        values = {v: np.array([by_id.get(e.example_id, 0.0) for e in applies]) for v, by_id in scores.items()}
        paired.append(PairedScores(metric, applies, values))
    if not any(each.metric in HEADLINES for each in paired):
        remedy = "run `medvl eval` again with this version of medvl"
        raise DataError(f"none of the scores {', '.join(HEADLINES)} was computed", remedy=remedy)
    return paired


def not_for_all(answers: Mapping[Variant, Answers]) -> list[str]:
    """Scores that not every variant was given, as when an older medvl has scored one of them: 0 would be a lie."""
    found = {name: [bool(_scores(each, name)) for each in answers.values()] for name in in_order(_computed(answers))}
    return [name for name, given in found.items() if any(given) and not all(given)]


def _computed(answers: Mapping[Variant, Answers]) -> set[str]:
    return {metric for given in answers.values() for metric in given.scores}


def _scores(given: Answers, metric: str) -> dict[str, float]:
    return {**given.scores.get(metric.removesuffix(WITHOUT_THINK), {}), **given.scores.get(metric, {})}


def _refuse_holes(
    metric: str,
    applies: Sequence[Example],
    scores: Mapping[Variant, Mapping[str, float]],
    answers: Mapping[Variant, Answers],
) -> None:
    for variant, by_id in scores.items():
        answered = answers[variant].predictions
        if holes := [e.example_id for e in applies if e.example_id in answered and e.example_id not in by_id]:
            what = f"{len(holes)} answers of {variant} have no {metric}, such as that to '{holes[0]}'"
            raise spoilt(what, layout.predictions(answers[variant].manifest.key))


@dataclass(frozen=True)
class _Part:
    """Some of the examples, before they are resampled."""

    name: str
    examples: Sequence[Example]
    scores: Sequence[PairedScores]

    @property
    def headline(self) -> PairedScores:
        """The first score that applies to half of the examples: a few known facts must not speak for all images."""
        by_name = {each.metric: each for each in self.scores}
        found = [by_name[metric] for metric in HEADLINES if metric in by_name]
        return next((each for each in found if 2 * len(each.examples) >= len(self.examples)), found[-1])

    @property
    def samples(self) -> list[Sample]:
        return [each.sample(headline=each is self.headline) for each in self.scores]


def compare(
    paired: Sequence[PairedScores],
    examples: Sequence[Example],
    names: Mapping[Variant, Naming],
    settings: ReportSettings,
) -> tuple[Slice, list[Slicing]]:
    """The comparison on all examples in all scores, and on parts of them in the main ones; all by the same draws."""
    divided = [(division.by, _parts(division, paired, examples)) for division in divisions(examples)]
    parts = [_Part("all", examples, paired), *(part for _, those in divided for part in those)]
    samples = [sample for part in parts for sample in part.samples]
    found = iter(spreads(samples, resamples=settings.resamples, seed=settings.seed))
    slices = iter([_slice(part, list(islice(found, len(part.scores))), names) for part in parts])
    whole = next(slices)
    return whole, [{"by": by, "slices": list(islice(slices, len(those)))} for by, those in divided]


def _parts(division: Division, paired: Sequence[PairedScores], examples: Sequence[Example]) -> list[_Part]:
    made = []
    for name in division.names:
        those = [example for example in examples if division.part_of[example.example_id] == name]
        chosen = [each.only(division.part_of, name) for each in paired if each.metric in MAIN]
        # Where the truths state nothing there are no facts scores at all; another score is then the part's headline.
        chosen = [each for each in chosen if each.examples]
        if any(each.metric in HEADLINES for each in chosen):
            made.append(_Part(name, those, chosen))
    return made


def _slice(part: _Part, found: Sequence[Mapping[str, Spread]], names: Mapping[Variant, Naming]) -> Slice:
    headline = part.headline
    return {
        "name": part.name,
        "examples": len(part.examples),
        "groups": len({example.group for example in part.examples}),
        "headline": _headline(headline, found[part.scores.index(headline)], names),
        "metrics": [_metric_row(each, spread) for each, spread in zip(part.scores, found, strict=True)],
    }


def _headline(paired: PairedScores, found: Mapping[str, Spread], names: Mapping[Variant, Naming]) -> Headline:
    differences = {
        variant: _difference(found[f"tuned - {variant}"], higher_is_better=True)
        for variant in paired.values
        if variant is not Variant.TUNED
    }
    controls: list[Control] = [
        {
            "variant": variant.value,
            "label": names[variant].label,
            "meaning": MEANINGS[variant],
            "difference": difference,
        }
        for variant, difference in differences.items()
        if variant is not Variant.BASE
    ]
    return {
        "metric": paired.metric,
        "label": describe(paired.metric).label,
        "examples": len(paired.examples),
        "groups": len({example.group for example in paired.examples}),
        "variants": {variant.value: _estimate(found[variant.value]) for variant in paired.values},
        "gain": differences[Variant.BASE],
        "drop": differences.get(Variant.TUNED_SHUFFLED),
        "controls": controls,
    }


def _metric_row(paired: PairedScores, found: Mapping[str, Spread]) -> MetricRow:
    metric = describe(paired.metric)
    return {
        "metric": paired.metric,
        "label": metric.label,
        "family": metric.family,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "examples": len(paired.examples),
        "means": {variant.value: rounded(values.mean()) for variant, values in paired.values.items()},
        "difference": _difference(found[f"tuned - {Variant.BASE}"], metric.higher_is_better),
    }


def _estimate(found: Spread) -> Estimate:
    """The interval of fewer groups than `FEWEST_GROUPS` is unknown, not as narrow as it looks."""
    certain = found.groups >= FEWEST_GROUPS
    return {
        "value": rounded(found.mean),
        "low": rounded(found.low) if certain else None,
        "high": rounded(found.high) if certain else None,
    }


def _difference(found: Spread, higher_is_better: bool | None) -> Difference:
    above = found.share_above
    better = {True: above, False: 1 - above, None: None}[higher_is_better]
    known = found.groups >= FEWEST_GROUPS and better is not None
    return {**_estimate(found), "probability_better": rounded(better) if known and better is not None else None}


def rounded(value: float | np.floating) -> float:
    """As ``report.json`` has it."""
    return round(float(value), DECIMALS) + 0.0  # + 0.0: no "-0.0" in the file
