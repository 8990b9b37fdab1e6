"""The shape of ``report.json``, from which the page and the Markdown are rendered; `schema` publishes it.

    Report
    ├── schema_version, kind, name, key
    ├── verdict           one sentence, and the two judgements that it is made of
    ├── gates[]           conditions of ``report.gates`` and how they came out when this report was written
    ├── variants[]        base, tuned, controls: what was predicted, what is missing, ``predict_results.json`` as it is
    ├── overall           Slice over all examples
    │   ├── headline      the one score that the verdict is about: every variant with its interval, gain and drop
    │   └── metrics[]     every score: means, and tuned minus base with its interval
    ├── slicings[]        by modality, body part and length of the reference: a Slice each, with the main scores only
    ├── distribution      how the headline score is spread over the examples
    ├── lengths           words of the answers beside words of the references
    ├── trainings[]       loss per log step and totals; none when the adapter was trained elsewhere
    ├── data              counts of the dataset card; examples and groups compared here
    ├── gallery[]         the images shown in the page, with reference and answers (the pixels are in the page only)
    ├── costs             seconds, GPU-seconds, money and memory per stage
    ├── lineage           stages with keys and versions, libraries, settings and what has changed in them
    └── caveats[]         what weakens the result, as far as the program can see it

In a report of two runs (``kind`` is ``runs``) the variant ``base`` is the first run's tuned model and ``tuned`` the
second one's. Scores are percentages from 0 to 100, counts of errors are per image; differences and drops are in points;
intervals are 95 % bootstrap intervals over groups, null with fewer than 6 groups. The file depends on its inputs only:
no clock of the report stage is in it.
"""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from medvl_jobs.report.shape_making import Costs, Data, Lineage, Training, documented

SCHEMA_VERSION = 2

Learned = Literal["better", "worse", "no difference shown", "undetermined"]
Looks = Literal["yes", "not shown", "undetermined", "not tested"]
Family = Literal["facts", "field", "errors", "text", "standard", "thinkless"]
"""All claims together; one kind of claim; mistakes, counted; LLaMA-Factory's overlap of words; the standard tools';
and LLaMA-Factory's without a leading think block."""
Unit = Literal["percent", "per image", "ratio"]
Outcome = Literal["better", "worse", "equal", "unknown"]


@documented
class Estimate(TypedDict):
    """A mean and where it may lie."""

    value: float
    low: float | None
    high: float | None


@documented
class Difference(Estimate):
    """One variant minus another, paired on the examples."""

    probability_better: float | None
    """Share of the resamples in which the first variant is the better one; null with fewer than 6 groups."""


@documented
class Control(TypedDict):
    """The tuned model beside one other variant, in the headline score."""

    variant: str
    label: str
    meaning: str
    """What the difference tells."""
    difference: Difference
    """Tuned minus this variant."""


@documented
class Headline(TypedDict):
    """The score that the verdict is about."""

    metric: str
    label: str
    examples: int
    """Examples that this score applies to."""
    groups: int
    variants: dict[str, Estimate]
    gain: Difference
    """Tuned minus base."""
    drop: Difference | None
    """Tuned minus tuned on shuffled images: what looking is worth. Null without that control."""
    controls: list[Control]
    """Every variant but base and tuned."""


@documented
class MetricRow(TypedDict):
    """One line of the comparison table."""

    metric: str
    label: str
    family: Family
    unit: Unit
    higher_is_better: bool | None
    """Null where neither direction is the better one."""
    examples: int
    """Examples that this score applies to, the same for all variants."""
    means: dict[str, float]
    difference: Difference


@documented
class Slice(TypedDict):
    """The comparison on some of the examples."""

    name: str
    examples: int
    groups: int
    headline: Headline
    metrics: list[MetricRow]


@documented
class Slicing(TypedDict):
    """All examples, divided by one of their properties; the most frequent part first, lengths in their order."""

    by: Literal["modality", "body part", "length"]
    slices: list[Slice]


@documented
class Verdict(TypedDict):
    """What the numbers say, and no more."""

    sentence: str
    learned: Learned
    looks: Looks


@documented
class Gate(TypedDict):
    """One condition of ``report.gates``."""

    metric: str
    condition: str
    value: float | None
    """Mean of the tuned model; null where the gate cannot be judged."""
    bound: float | None
    """What the condition comes to here."""
    passed: bool | None
    note: str
    """Why it cannot be judged; empty otherwise."""


@documented
class VariantSummary(TypedDict):
    """What became of one variant's examples."""

    variant: str
    label: str
    short: str
    """The label where there is little room."""
    key: str
    predicted: int
    missing: int
    """Examples without a prediction; each counts as wrong."""
    failed: int
    """Predictions that could not be made; each is empty and counts as wrong."""
    empty: int
    """Other predictions without a word; each counts as wrong."""
    cut_off: int
    """Predictions that ``eval.max_new_tokens`` ended."""
    results: dict[str, float | str]
    """``predict_results.json``, with LLaMA-Factory's keys."""


@documented
class Distribution(TypedDict):
    """How a score is spread over the examples."""

    metric: str
    label: str
    edges: list[float]
    """Of the bins, one more than there are bins; the last bin holds its upper edge too."""
    counts: dict[str, list[int]]
    """Examples per bin, by variant."""


@documented
class AnswerLengths(TypedDict):
    """Quartiles of the answers' words."""

    low: float
    median: float
    high: float


@documented
class LengthBin(TypedDict):
    """The examples whose references have about one length."""

    shortest: int
    longest: int
    median: float
    """Words of the references."""
    examples: int
    answers: dict[str, AnswerLengths]
    """By variant."""


@documented
class ClaimMark(TypedDict):
    """A claim of an answer: characters ``[start, end)`` of its text, what they claim, and whether it is so."""

    start: int
    end: int
    field: str
    value: str
    right: bool


@documented
class Answer(TypedDict):
    """What one variant said about one image."""

    variant: str
    label: str
    text: str
    score: float | None
    """The headline score of this answer."""
    cut_off: bool
    failed: bool
    claims: list[ClaimMark]


@documented
class GalleryItem(TypedDict):
    """One image of the gallery, without its pixels."""

    example_id: str
    modality: str
    group: str
    alt: str
    reference: str
    answers: list[Answer]
    outcome: Outcome
    """Whether tuned scores better than base here."""
    errors: list[str]
    """Kinds of facts that tuned gets wrong here."""


@documented
class Caveat(TypedDict):
    """One thing that weakens the result."""

    name: str
    text: str


@documented
class Report(TypedDict):
    """All of ``report.json``."""

    schema_version: Literal[2]
    kind: Literal["run", "runs"]
    name: str
    key: str
    verdict: Verdict
    gates: list[Gate]
    variants: list[VariantSummary]
    overall: Slice
    slicings: list[Slicing]
    distribution: Distribution
    lengths: list[LengthBin]
    trainings: list[Training]
    data: Data
    gallery: list[GalleryItem]
    costs: Costs
    lineage: Lineage
    caveats: list[Caveat]
