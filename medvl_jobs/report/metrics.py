"""What each variant and score is called, what it means, and in which direction it is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medvl_jobs.settings.eval import Variant

VARIANT_LABELS = {
    Variant.BASE: "Base",
    Variant.TUNED: "Tuned",
    Variant.TUNED_SHUFFLED: "Tuned, shuffled images",
    Variant.TUNED_BLANK: "Tuned, blank images",
    Variant.TEMPLATE: "One caption for all",
    Variant.BASE_FORMATTED: "Base, told the format",
}

HEADLINES = ("facts_f1", "rouge-l")
"""The score that the verdict is about: the first of these that was computed."""
MAIN = ("facts_f1", "rouge-l", "bleu-4")
"""The scores that are also given per modality."""

Family = Literal["facts", "field", "text"]
"""All claims together; one kind of claim, where the truth makes one; overlap of words."""


@dataclass(frozen=True)
class Metric:
    """How to present one score. Scores are percentages, except where ``per_image`` counts."""

    label: str
    family: Family
    meaning: str = ""
    higher_is_better: bool = True
    per_image: bool = False
    """A count per image, not a percentage: shown with two decimals."""

    @property
    def inside(self) -> str:
        """The label inside a sentence: ``facts F1``, but ``ROUGE-L``."""
        return self.label if self.label[:2].isupper() else self.label[0].lower() + self.label[1:]


METRICS = {
    "facts_f1": Metric("Facts F1", "facts", "of precision and recall"),
    "facts_precision": Metric("Facts precision", "facts", "right of those claimed"),
    "facts_recall": Metric("Facts recall", "facts", "right of those true"),
    "fact_modality": Metric("Modality", "field"),
    "fact_plane": Metric("Plane", "field"),
    "fact_body_part": Metric("Body part", "field"),
    "fact_structures": Metric("Structures", "field", "F1, sides included"),
    "fact_region": Metric("Region of interest", "field"),
    "fact_position": Metric("Position in the image", "field", "3 × 3 grid"),
    "fact_area": Metric("Area", "field", "within a quarter"),
    "fact_finding": Metric("Finding", "field"),
    "laterality_errors": Metric(
        "Left/right confused", "field", "structures per image", higher_is_better=False, per_image=True
    ),
    "bleu-4": Metric("BLEU-4", "text", "of characters"),
    "rouge-1": Metric("ROUGE-1", "text", "distinct words"),
    "rouge-2": Metric("ROUGE-2", "text", "distinct word pairs"),
    "rouge-l": Metric("ROUGE-L", "text", "longest common subsequence"),
}
"""In the order of the table. A score that is not listed comes after these, see `describe`."""


def describe(name: str) -> Metric:
    """How to present a score; one that is new here is read from its name (``*_errors`` counts mistakes)."""
    if name in METRICS:
        return METRICS[name]
    counts_mistakes = name.endswith("_errors")
    return Metric(
        name.replace("_", " ").capitalize(),
        "facts" if name.startswith("facts_") else "field" if name.startswith("fact_") or counts_mistakes else "text",
        higher_is_better=not counts_mistakes,
        per_image=counts_mistakes,
    )


def in_order(names: set[str]) -> list[str]:
    """The table's order: the listed ones first, the others by name."""
    listed = [name for name in METRICS if name in names]
    return listed + sorted(names - set(listed))
