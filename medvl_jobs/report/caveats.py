"""What weakens a result, as far as a program can see it: said in the report whether anybody asks or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from medvl_jobs.page.words import number, quantity
from medvl_jobs.report.inputs import Evidence
from medvl_jobs.report.shape import Caveat, Slice, VariantSummary
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.run import RunSettings

FEW_GROUPS = 20
"""Below this many groups the bootstrap over groups gives intervals that are too narrow: it draws from what was seen.

Cameron, Gelbach & Miller 2008 (doi:10.1162/rest.90.3.414) measure it for 5 to 30 clusters.
"""

Found = Iterator[tuple[str, str]]
"""Names and texts."""


def caveats(
    evidence: Evidence, settings: RunSettings, whole: Slice, variants: Sequence[VariantSummary]
) -> list[Caveat]:
    """All that weakens this comparison, the gravest first."""
    found = [
        *_about_groups(whole),
        *_about_answers(variants, settings),
        *_about_control(evidence),
        *_about_data(evidence, settings),
        *_about_training(evidence),
        *_about_code(evidence),
    ]
    return [{"name": name, "text": text} for name, text in found]


def _about_groups(whole: Slice) -> Found:
    groups = whole["groups"]
    if groups == 1:
        yield "one group", "All validation images come from one group: how far the result carries cannot be told."
    elif groups < FEW_GROUPS:
        few = f"The validation images come from {groups} groups only"
        yield "few groups", f"{few}: with fewer than {FEW_GROUPS} the intervals are too narrow."


def _about_answers(variants: Sequence[VariantSummary], settings: RunSettings) -> Found:
    tokens = settings.eval.max_new_tokens
    kinds = (
        ("missing", "No prediction, counted as wrong", [each["missing"] for each in variants]),
        ("empty", "An empty answer, counted as wrong", [each["empty"] for each in variants]),
        (
            "cut off",
            f"An answer cut off after {tokens} tokens, so that more may have been right",
            [each["cut_off"] for each in variants],
        ),
    )
    for name, what, counts in kinds:
        listed = [
            f"{each['label'].lower()} {many:,} of {quantity(each['predicted'] + each['missing'], 'example')}"
            for each, many in zip(variants, counts, strict=True)
            if many
        ]
        if listed:
            yield name, f"{what}: {', '.join(listed)}."


def _about_control(evidence: Evidence) -> Found:
    control = evidence.answers.get(Variant.TUNED_SHUFFLED)
    if control is None:
        yield "no control", "The tuned model was not asked with shuffled images: whether it looks at them is open."
        return
    group = {example.example_id: example.group for example in evidence.examples}
    shown = control.predictions.values()
    itself = sum(each.image_id == each.example_id for each in shown)
    related = sum(group.get(each.image_id) == group[each.example_id] for each in shown) - itself
    if itself:
        kept = f"In the shuffled control {quantity(itself, 'example')} kept the right image"
        yield "control shows the same image", f"{kept}: that hides a part of the drop."
    if related:
        share = f"{related:,} of {len(shown):,} examples ({number(100 * related / len(shown))} %)"
        got = f"In the shuffled control {share} got an image of their own group, which may look much like the right one"
        yield "control shows related images", f"{got}: the drop understates what looking is worth."


def _about_data(evidence: Evidence, settings: RunSettings) -> Found:
    asked, whole = len(evidence.examples), evidence.validation_examples
    if asked < whole:
        yield "limited", f"Only the first {asked:,} of {whole:,} validation images were evaluated (eval.limit)."
    if read := sum(example.facts is None for example in evidence.examples):
        known = f"Of {read:,} of {asked:,} images nothing is known but the reference caption"
        misread = "what the program misreads there counts against every answer"
        yield "facts from captions", f"{known}: the facts are those that are read in it, and {misread}."
    if lonely := evidence.card.get("group_source", {}).get("rows", {}).get("id", 0):
        alone = f"{quantity(lonely, 'row')} of the dataset name no group and are a group each"
        leak = "neighbouring slices of one patient may lie on both sides of the split"
        yield "groups unknown", f"{alone}: {leak}, and the intervals may be too narrow."
    if settings.eval.adapter:
        given = "The adapter was given, not trained by this run"
        yield "foreign adapter", f"{given}: whether it has seen these validation images is not known."


def _about_training(evidence: Evidence) -> Found:
    log = evidence.training.log if evidence.training else []
    if lost := sum(not math.isfinite(line["loss"]) for line in log):
        yield "training diverged", f"The training loss was no number at {lost:,} of {len(log):,} log steps."


def _about_code(evidence: Evidence) -> Found:
    made = [given.manifest for given in evidence.answers.values()]
    if any((each.git_sha or "").endswith("-dirty") for each in made):
        changed = "The answers were made by code with uncommitted changes"
        yield "uncommitted code", f"{changed}: the commit alone does not reproduce them."
    elif len({(each.code_version, each.git_sha) for each in made}) > 1:
        yield "different code", "The variants were answered by different versions of the code (see the lineage)."
    if len({tuple(sorted(each.library_versions.items())) for each in made}) > 1:
        yield "different libraries", "The variants were answered with different library versions (see the lineage)."
