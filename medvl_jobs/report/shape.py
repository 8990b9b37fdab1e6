"""The shape of ``report.json``, from which the page and the Markdown are rendered.

    Report
    ├── schema_version, name, key
    ├── verdict           one sentence, and the two judgements that it is made of
    ├── variants[]        base, tuned, controls: what was predicted, what is missing, ``predict_results.json`` as it is
    ├── overall           Slice over all examples
    │   ├── headline      the one score that the verdict is about: every variant with its interval, gain and drop
    │   └── metrics[]     every score: means, and tuned minus base with its interval
    ├── modalities[]      Slice per modality; ``metrics`` holds the main scores only
    ├── training          loss per log step and totals, or null when the adapter was trained elsewhere
    ├── data              counts of the dataset card; examples and groups compared here
    ├── gallery[]         the images shown in the page, with reference and answers (the pixels are in the page only)
    ├── costs[]           seconds, GPU-seconds and memory per stage
    ├── lineage           stages with keys and versions, libraries, settings
    └── caveats[]         what weakens the result, as far as the program can see it

Scores are percentages from 0 to 100; differences and drops are in points; intervals are 95 % bootstrap intervals over
groups, null when there is only one group. The file depends on its inputs only: no clock of the report stage is in it.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

SCHEMA_VERSION = 1

Learned = Literal["better", "worse", "no difference shown", "undetermined"]
Looks = Literal["yes", "not shown", "undetermined", "not tested"]


class Estimate(TypedDict):
    """A mean and where it may lie."""

    value: float
    low: float | None
    high: float | None


class Difference(Estimate):
    """One variant minus another, paired on the examples."""

    probability_better: float | None
    """Share of the resamples in which the first variant is the better one; null with one group."""


class Headline(TypedDict):
    """The score that the verdict is about."""

    metric: str
    label: str
    variants: dict[str, Estimate]
    gain: Difference
    """Tuned minus base."""
    drop: Difference | None
    """Tuned minus tuned on shuffled images: what looking is worth. Null without that control."""


class MetricRow(TypedDict):
    """One line of the comparison table."""

    metric: str
    label: str
    family: Literal["facts", "field", "text"]
    higher_is_better: bool
    examples: int
    """Examples that this score applies to, the same for all variants."""
    means: dict[str, float]
    difference: Difference


class Slice(TypedDict):
    """The comparison on some of the examples."""

    name: str
    examples: int
    groups: int
    headline: Headline
    metrics: list[MetricRow]


class Verdict(TypedDict):
    """What the numbers say, and no more."""

    sentence: str
    learned: Learned
    looks: Looks


class VariantSummary(TypedDict):
    """What became of one variant's examples."""

    variant: str
    label: str
    key: str
    predicted: int
    missing: int
    """Examples without a prediction; each counts as wrong."""
    empty: int
    """Predictions without a word; each counts as wrong."""
    cut_off: int
    """Predictions that ``eval.max_new_tokens`` ended."""
    results: dict[str, float]
    """``predict_results.json``, with LLaMA-Factory's keys."""


class Training(TypedDict):
    """The loss curve and the totals."""

    steps: list[int]
    loss: list[float]
    """Nats per answer token, mean since the log step before."""
    smoothed: list[float]
    results: dict[str, float]
    """``all_results.json``."""
    counts: dict[str, int]


class Answer(TypedDict):
    """What one variant said about one image."""

    variant: str
    text: str
    score: float | None
    """The headline score of this answer."""
    cut_off: bool


class GalleryItem(TypedDict):
    """One image of the gallery, without its pixels."""

    example_id: str
    modality: str
    group: str
    alt: str
    reference: str
    answers: list[Answer]


class Cost(TypedDict):
    """What one stage took."""

    stage: str
    wall_seconds: float
    gpu_seconds: float
    peak_memory_bytes: int


class StageLineage(TypedDict):
    """Where one input comes from."""

    stage: str
    key: str
    code_version: str
    git_sha: str | None
    image_digest: str | None
    created_at: str


class Lineage(TypedDict):
    """All that is needed to make the same report again."""

    stages: list[StageLineage]
    library_versions: dict[str, str]
    """Of the stages together; where two differ, both are named."""
    settings: dict[str, Any]


class Data(TypedDict):
    """What was compared, and what it is a part of."""

    examples: int
    groups: int
    validation_examples: int
    card: dict[str, Any]


class Caveat(TypedDict):
    """One thing that weakens the result."""

    name: str
    text: str


class Report(TypedDict):
    """All of ``report.json``."""

    schema_version: int
    name: str
    key: str
    verdict: Verdict
    variants: list[VariantSummary]
    overall: Slice
    modalities: list[Slice]
    training: Training | None
    data: Data
    gallery: list[GalleryItem]
    costs: list[Cost]
    lineage: Lineage
    caveats: list[Caveat]
