"""What each variant and score is called, what it means, and in which direction it is better."""

from __future__ import annotations

from dataclasses import dataclass

from medvl_jobs.report.shape import Family, Unit
from medvl_jobs.settings.eval import Variant


@dataclass(frozen=True)
class Naming:
    """How a report speaks of one variant."""

    label: str
    short: str
    """Where there is little room: a column's head, a bar."""
    subject: str
    """In a sentence."""


NAMES = {
    Variant.BASE: Naming("Base", "Base", "the base model"),
    Variant.TUNED: Naming("Tuned", "Tuned", "the tuned model"),
    Variant.TUNED_SHUFFLED: Naming("Tuned, shuffled images", "Shuffled", "the tuned model on shuffled images"),
    Variant.TUNED_BLANK: Naming("Tuned, blank images", "Blank", "the tuned model on blank images"),
    Variant.TEMPLATE: Naming("One caption for all", "Template", "one caption for all images"),
    Variant.BASE_FORMATTED: Naming("Base, told the format", "Format", "the base model, told the format"),
}

MEANINGS = {
    Variant.TUNED_SHUFFLED: "shown another example's image: what looking is worth",
    Variant.TUNED_BLANK: "shown an even grey image: what looking at anything is worth",
    Variant.TEMPLATE: "the most typical training caption, said of every image: what a model without eyes can score",
    Variant.BASE_FORMATTED: "told in which form to answer: what tuning taught beyond the form",
}
"""What the difference between the tuned model and a control tells."""

IN_PARTS = (Variant.BASE, Variant.TUNED, Variant.TUNED_SHUFFLED)
"""The variants that are shown for each part of the examples: with all of them one could not compare the parts."""

HEADLINES = ("facts_f1", "rouge-l")
"""The score that the verdict is about: the first of these that was computed."""
MAIN = ("facts_f1", "rouge-l", "bleu-4")
"""The scores that are also given per modality, body part and length."""
SUMMARY = (
    "facts_f1", "facts_precision", "facts_recall", "laterality_errors", "modality_errors", "hallucination_errors",
    "contradiction_errors", "rouge-l", "bleu-4", "rouge-l_without_think", "bleu-4_without_think", "rougeL",
    "sentence_bleu", "length_ratio",
)  # fmt: skip
"""The scores that fit into a pull request."""

WITHOUT_THINK = "_without_think"
"""Ends the name of a score of the text behind a leading think block."""


@dataclass(frozen=True)
class Metric:
    """How to present one score."""

    label: str
    family: Family
    meaning: str = ""
    higher_is_better: bool | None = True
    """None where neither direction is the better one."""
    unit: Unit = "percent"

    @property
    def inside(self) -> str:
        """The label inside a sentence: ``facts F1``, but ``ROUGE-L``."""
        return self.label if self.label[:2].isupper() else self.label[0].lower() + self.label[1:]

    @property
    def decimals(self) -> int:
        """Percentages deserve one decimal, counts per image and ratios two."""
        return 1 if self.unit == "percent" else 2


def _errors(label: str, meaning: str) -> Metric:
    return Metric(label, "errors", meaning, higher_is_better=False, unit="per image")


METRICS = {
    "facts_f1": Metric("Facts F1", "facts", "of precision and recall"),
    "facts_precision": Metric("Facts precision", "facts", "right of those claimed"),
    "facts_recall": Metric("Facts recall", "facts", "right of those true"),
    "facts_hedged": Metric("Claims with a hedge", "facts", "they count like the others", higher_is_better=None),
    "fact_modality": Metric("Modality", "field"),
    "fact_plane": Metric("Plane", "field"),
    "fact_body_part": Metric("Body part", "field"),
    "fact_structures": Metric("Structures", "field", "F1, sides included"),
    "fact_region": Metric("Region of interest", "field"),
    "fact_position": Metric("Position in the image", "field", "3 × 3 grid"),
    "fact_area": Metric("Area", "field", "within a quarter"),
    "fact_finding": Metric("Finding", "field"),
    "laterality_errors": _errors("Left/right confused", "structures per image"),
    "modality_errors": _errors("Wrong modality", "per image"),
    "hallucination_errors": _errors("Invented structures", "per image"),
    "negation_errors": _errors("Findings turned round", "denied where true, claimed where denied"),
    "contradiction_errors": _errors("Contradictions", "of all kinds, per image"),
    "bleu-4": Metric("BLEU-4", "text", "of characters"),
    "rouge-1": Metric("ROUGE-1", "text", "distinct words"),
    "rouge-2": Metric("ROUGE-2", "text", "distinct word pairs"),
    "rouge-l": Metric("ROUGE-L", "text", "longest common subsequence"),
    "sentence_bleu": Metric("BLEU (sacrebleu)", "standard", "of words, per sentence"),
    "rouge1": Metric("ROUGE-1 (rouge-score)", "standard", "words"),
    "rouge2": Metric("ROUGE-2 (rouge-score)", "standard", "word pairs"),
    "rougeL": Metric("ROUGE-L (rouge-score)", "standard", "longest common subsequence"),
    "length_ratio": Metric(
        "Length", "standard", "words per word of the reference", higher_is_better=None, unit="ratio"
    ),
}
"""In the order of the table. A score that is not listed comes after these, see `describe`."""


def describe(name: str) -> Metric:
    """How to present a score; one that is new here is read from its name (``*_errors`` counts mistakes)."""
    if name in METRICS:
        return METRICS[name]
    if name.endswith(WITHOUT_THINK):
        plain = describe(name.removesuffix(WITHOUT_THINK))
        return Metric(plain.label, "thinkless", plain.meaning, plain.higher_is_better, plain.unit)
    label = name.replace("_", " ").capitalize()
    if name.endswith("_errors"):
        return _errors(label, "per image")
    return Metric(label, "facts" if name.startswith("facts_") else "field" if name.startswith("fact_") else "text")


def in_order(names: set[str]) -> list[str]:
    """The table's order: the listed ones first, each before the same without the think block, the others by name."""
    listed = [each for name in METRICS for each in (name, name + WITHOUT_THINK) if each in names]
    return listed + sorted(names - set(listed))
