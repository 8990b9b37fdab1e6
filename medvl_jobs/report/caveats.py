"""What weakens a result, as far as a program can see it: said in the report whether anybody asks or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from medvl_jobs.contracts.records import Prediction
from medvl_jobs.page.words import number, quantity
from medvl_jobs.report.answers import Answers
from medvl_jobs.report.frame import Frame
from medvl_jobs.report.inputs import Evidence
from medvl_jobs.report.languages import script, thinks
from medvl_jobs.report.making import about_making
from medvl_jobs.report.metrics import describe
from medvl_jobs.report.shape import Caveat, Slice, VariantSummary
from medvl_jobs.report.stats import FEWEST_GROUPS
from medvl_jobs.report.words import interval, judgement, signed
from medvl_jobs.settings.eval import Variant

FEW_GROUPS = 20
"""Below this many groups the bootstrap over groups gives intervals that are too narrow: it draws from what was seen.

Cameron, Gelbach & Miller 2008 (doi:10.1162/rest.90.3.414) measure it for 5 to 30 clusters.
"""
FEW_EXAMPLES = 100
"""Below this many examples rare faults stay unseen: the rule of three (Hanley & Lippman-Hand 1983)."""

Found = Iterator[tuple[str, str]]
"""Names and texts."""


def caveats(evidence: Evidence, frame: Frame, whole: Slice, variants: Sequence[VariantSummary]) -> list[Caveat]:
    """All that weakens this comparison, the gravest first."""
    found = [
        *_about_mistakes(whole, frame),
        *_about_controls(whole, frame),
        *_about_size(whole),
        *_about_answers(evidence, variants),
        *_about_texts(evidence, variants),
        *(_about_control(evidence) if frame.kind == "run" else ()),
        *_about_data(evidence, frame),
        *about_making(evidence, frame),
        *_about_training(evidence, variants),
    ]
    return [{"name": name, "text": text} for name, text in found]


def _about_mistakes(whole: Slice, frame: Frame) -> Found:
    """A better score may hide that more is said wrongly: an answer that says more has more of both.

    One kind of mistake may grow while all together fall: confused sides must not hide behind invented structures.
    """
    rows = {row["metric"]: row for row in whole["metrics"]}
    worse = [name for name, row in rows.items() if judgement(row["difference"], row["higher_is_better"]) == "worse"]
    kinds = [name for name in worse if name.endswith("_errors")]
    tuned, base = (frame.names[variant].subject for variant in (Variant.TUNED, Variant.BASE))
    where = f"in the answers of {tuned} than of {base}, per image"
    if "contradiction_errors" in kinds:
        texts = {"contradiction_errors": f"More contradictions of the truth {where}"}
    else:
        texts = {name: f"{describe(name).label} more often {where}" for name in kinds}
    if "facts_precision" in worse:
        texts["facts_precision"] = f"Of what {tuned} claims less is right than of what {base} claims, in percent"
    for name, text in texts.items():
        means, digits = rows[name]["means"], describe(name).decimals
        counts = f"{number(means[Variant.TUNED], digits)} against {number(means[Variant.BASE], digits)}"
        yield describe(name).inside, f"{text}: {counts}."


_NO_BETTER_THAN = {
    Variant.TUNED_BLANK: "a grey image would do as well",
    Variant.TEMPLATE: "it may have learnt no more than how captions are worded",
    Variant.BASE_FORMATTED: "it may have learnt no more than the form of an answer",
}
"""What it means when the tuned model does not score more than a control; of shuffled images the verdict speaks."""


def _about_controls(whole: Slice, frame: Frame) -> Found:
    headline = whole["headline"]
    for control in headline["controls"]:
        meaning, difference = _NO_BETTER_THAN.get(Variant(control["variant"])), control["difference"]
        if meaning is None or difference["low"] is None or difference["low"] > 0:
            continue
        name = frame.names[Variant(control["variant"])].subject
        worse = judgement(difference, higher_is_better=True) == "worse"
        told = f"does worse than {name}" if worse else f"is not shown to beat {name}"
        more = f"{signed(difference['value'])} points, 95 % interval {interval(difference)}"
        shown = f"The tuned model {told} in {describe(headline['metric']).inside} ({more})"
        yield f"no better than {control['variant']}", f"{shown}: {meaning}."


def _about_size(whole: Slice) -> Found:
    headline, examples = whole["headline"], whole["examples"]
    groups = headline["groups"]
    those = "validation images" if groups == whole["groups"] else "images that the verdict is about"
    if groups < FEWEST_GROUPS:
        few = f"All {those} come from {quantity(groups, 'group')}"
        yield "too few groups", f"{few}: with fewer than {FEWEST_GROUPS} how far the result carries cannot be told."
    elif groups < FEW_GROUPS:
        few = f"The {those} come from {groups} groups only"
        yield "few groups", f"{few}: with fewer than {FEW_GROUPS} the intervals are too narrow."
    if examples < FEW_EXAMPLES:
        few = f"Only {quantity(examples, 'validation image')}"
        rare = (
            f"a fault that shows in fewer than {_unseen_percent(examples):.0f} % of all images may not have shown here"
        )
        yield "few examples", f"{few}: {rare}."


def _unseen_percent(examples: int) -> float:
    """How frequent a fault is that so many examples miss in one of twenty cases: (1 - p)^n = 5 %, about 3 / n."""
    return 100 * (1 - 0.05 ** (1 / examples))


def _about_answers(evidence: Evidence, variants: Sequence[VariantSummary]) -> Found:
    limits = {given.manifest.settings.get("eval", {}).get("max_new_tokens") for given in evidence.answers.values()}
    tokens = " or ".join(str(limit) for limit in sorted(limits - {None}))
    kinds = (
        ("missing", "No prediction, counted as wrong", [each["missing"] for each in variants]),
        ("failed", "A prediction that failed for good, counted as wrong", [each["failed"] for each in variants]),
        ("empty", "An empty answer, counted as wrong", [each["empty"] for each in variants]),
        (
            "cut off",
            f"An answer cut off after {tokens} tokens, so that more may have been right",
            [each["cut_off"] for each in variants],
        ),
    )
    for name, what, counts in kinds:
        if any(counts):
            yield name, f"{what}: {_listed(variants, counts)}."


def _listed(variants: Sequence[VariantSummary], counts: Sequence[int]) -> str:
    return ", ".join(
        f"{each['label']} {many:,} of {quantity(each['predicted'] + each['missing'], 'example')}"
        for each, many in zip(variants, counts, strict=True)
        if many
    )


def _about_texts(evidence: Evidence, variants: Sequence[VariantSummary]) -> Found:
    foreign = [_count(given, _in_another_script) for given in evidence.answers.values()]
    if any(foreign):
        little = "overlap of words means nothing there; facts are read in English and Chinese"
        yield (
            "language mismatch",
            f"Answers in another script than their reference: {_listed(variants, foreign)}; {little}.",
        )
    yield from _about_question(evidence, variants)
    thinking = [_count(given, lambda p: thinks(p.predict)) for given in evidence.answers.values()]
    if any(thinking):
        counted = "the block counts as words in LLaMA-Factory's scores; those without it stand beside them"
        yield "think prefix", f"Answers that begin with a think block: {_listed(variants, thinking)}; {counted}."
    if labels := max(_count(given, lambda p: thinks(p.label)) for given in evidence.answers.values()):
        prefixed = f"{quantity(labels, 'reference')} begin with a think block (prompt.answer_prefix)"
        yield "think prefix in references", f"{prefixed}: whoever repeats it gains overlap that describes nothing."


def _about_question(evidence: Evidence, variants: Sequence[VariantSummary]) -> Found:
    """Who was asked in another script than that of the references."""
    shorts = {each["variant"]: each["short"] for each in variants}
    whom: dict[tuple[str, str], list[str]] = {}
    for variant, given in evidence.answers.items():
        question = given.manifest.settings.get("question")
        asked, references = script(question or ""), script(" ".join(p.label for p in given.predictions.values()))
        if asked and references and asked != references:
            whom.setdefault((asked, references), []).append(shorts[variant])
    for (asked, references), names in whom.items():
        what = f"Asked in {asked} script about references that are {references}: {', '.join(names)}"
        yield "question in another language", f"{what}; the answer may follow the question's language."


def _label(variants: Sequence[VariantSummary], variant: Variant) -> str:
    """What the report calls a variant."""
    return next(each["label"] for each in variants if each["variant"] == variant)


def _count(answers: Answers, has: Callable[[Prediction], bool]) -> int:
    return sum(has(prediction) for prediction in answers.predictions.values())


def _in_another_script(prediction: Prediction) -> bool:
    said, reference = script(prediction.predict), script(prediction.label)
    return said is not None and reference is not None and said != reference


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


def _about_data(evidence: Evidence, frame: Frame) -> Found:
    if evidence.first_card is None:
        yield from _about_card(evidence.card, "")
    else:
        yield from _about_card(evidence.first_card, f" of {frame.names[Variant.BASE].subject}")
        yield from _about_card(evidence.card, f" of {frame.names[Variant.TUNED].subject}")
    asked, whole = len(evidence.examples), evidence.validation_examples
    if asked < whole:
        yield "limited", f"Only {asked:,} of {whole:,} validation images are compared."
    if read := sum(example.from_caption for example in evidence.examples):
        known = f"Of {read:,} of {asked:,} images nothing is known but the reference caption"
        misread = "what the program misreads there counts against every answer"
        yield "facts from captions", f"{known}: the facts are those that are read in it, and {misread}."


def _about_card(card: dict[str, Any], whose: str) -> Found:
    """What the card of a dataset says against it; ``whose`` it is, where there are two."""
    duplicates = card.get("duplicates", {})
    for kind, what in (("exact", "identical"), ("near", "nearly identical")):
        found = duplicates.get(kind, {})
        if found.get("policy") == "keep" and (across := found.get("across", 0)):
            kept = f"{quantity(across, f'{what} picture')} in both train and validation{whose}"
            yield f"{kind} leak", f"{kept} (prep.duplicates.{kind} is keep): the model was trained on them."
    if lonely := card.get("group_source", {}).get("rows", {}).get("id", 0):
        alone = f"{quantity(lonely, 'row')} of the dataset{whose} name no group and are a group each"
        leak = "neighbouring slices of one patient may lie on both sides of the split"
        yield "groups unknown", f"{alone}: {leak}, and the intervals may be too narrow."


def _about_training(evidence: Evidence, variants: Sequence[VariantSummary]) -> Found:
    for variant, run in evidence.trainings.items():
        whose = f" of {_label(variants, variant)}" if len(evidence.trainings) > 1 else ""
        log, steps = run.log, run.results.get("left_out_steps", 0)
        if lost := sum(line["loss"] is None or not math.isfinite(line["loss"]) for line in log):
            yield "training diverged", f"The training loss{whose} was no number at {lost:,} of {len(log):,} log steps."
        elif steps:
            without = f"{quantity(int(steps), 'training step')} without a finite loss or gradient"
            yield "steps left out", f"The training{whose} left out {without}."
