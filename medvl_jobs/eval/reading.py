"""Read an answer's claims out of its words, with the characters that make each of them.

Rules of reading, in the order in which they apply (the words are in `lexicon`, the accuracy in ``docs/facts.md``):

1. *Sentences* end at ``. ! ?`` before a blank, at ``。！？`` and at a line's end. Each is English or Chinese, whichever
   it has more of. A think block before the answer is not read.
2. *Negation*: a claim counts only where it is not denied. A denial reaches from its cue to the end of the clause, of
   the list, or to the next verb or place: "no nodule, mass or effusion in the right lung" denies three findings and no
   lung. "X is not seen" and "脾脏未显示" deny what stands before. After NegEx (Chapman et al. 2001,
   doi:10.1006/jbin.2001.1029), with its exceptions such as "without contrast".
3. *Hedges* ("may", "likely", "cannot be excluded", 可能, 待排) do not weaken a claim: it counts like any other, and is
   marked as hedged. They concern structures, the region's structure and the finding, from the cue to the end of the
   clause, or back to its start. "Unlikely" denies and hedges.
4. *Modality, plane and body part* are the first ones named.
5. *Structures* are all that are named. A side is the patient's; it stands before ("right lower lobe of the lung") or
   after ("lung lower lobe right", "kidney on the left"). A plural without a side means both. A bare "lung" is a claim
   of its own, which neither ``left lung`` nor ``right lung`` fulfils; it is dropped where a side is named elsewhere.
   Chinese has no plural: a bare 肺 means both lungs, unless a side is named elsewhere.
6. *The region* is spoken of in the sentence that says "region of interest" or "largest", or else in the first one with
   a lesion; up to three sentences go on about it when they begin with "it" or "this region". Structure: the first one
   named after those words, but not one that it is next to or compared with; in Chinese, where the place comes first, or
   else the last one before the lesion. Position: ``upper left`` before ``left upper part`` before ``upper part``, where
   the axis that is not mentioned is the middle one; "the upper part of the liver" is none. Area: a percentage of the
   image, or else the first; "less than 1%" is 0.5.
7. *Finding* is the first one claimed, or else the first one denied, as ``no nodule``, or else ``normal`` when the
   answer says that there is no abnormality.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from medvl_jobs.contracts.facts import NORMAL, Facts, Region
from medvl_jobs.eval.facts import Claim
from medvl_jobs.eval.lexicon.vocabulary import NODULE, STRUCTURES, RegionWords
from medvl_jobs.eval.sentences import Mention, Sentence, sentences_of


class Stated(NamedTuple):
    """A claim with the characters ``[start, end)`` of the answer that make it, where it is made first."""

    start: int
    end: int
    claim: Claim
    hedged: bool


class Reading(NamedTuple):
    """What an answer claims."""

    facts: Facts
    stated: tuple[Stated, ...]
    """Each claim of ``facts`` once, in the order of the text. Two may share their words: "lungs", "lung nodule"."""


def read_facts(text: str) -> Facts:
    """The claims of a free-text answer; see the rules above.

    A region may be stated in part, while `Region` has no optional fields: ``""`` and an area of 0 stand for what is not
    stated (a region of no pixels does not exist, so nothing is lost).
    """
    return read(text).facts


def read(text: str) -> Reading:
    """The claims of a free-text answer with their places; see the rules above."""
    sentences = sentences_of(text)
    simple = [_first(field, sentences) for field in ("modality", "plane", "body_part")]
    structures = _structures(sentences)
    region = _region(sentences)
    finding = _finding(sentences)
    modality, plane, body_part = (str(each.claim.value) if each else None for each in simple)
    facts = Facts(
        modality=modality,
        plane=plane,
        body_part=body_part,
        structures=tuple(str(each.claim.value) for each in structures),
        region=_region_of(region),
        finding=str(finding.claim.value) if finding else None,
    )
    stated = [each for each in (*simple, *structures, *region, finding) if each and each.claim.value]
    return Reading(facts, tuple(sorted(stated)))


def _stated(sentence: Sentence, start: int, end: int, field: str, value: str | float, hedged: bool = False) -> Stated:
    return Stated(*sentence.text.origin(start, end), Claim(field, value), hedged)


def _first(field: str, sentences: list[Sentence]) -> Stated | None:
    """The first name of a table that is not denied."""
    for sentence in sentences:
        words = sentence.lexicon.words
        table = {"modality": words.modalities, "plane": words.planes, "body_part": words.body_parts}[field]
        for name, start, end in table.find(sentence.text.chars):
            if not sentence.denied[start]:
                return _stated(sentence, start, end, field, name)
    return None


def _finding(sentences: list[Sentence]) -> Stated | None:
    """A claimed finding beats a denied one: "a nodule …, no other nodule"; anything beats "normal"."""
    found: list[tuple[bool, Stated]] = []
    for sentence in sentences:
        for name, start, end in sentence.lexicon.words.findings.find(sentence.text.chars):
            denied = bool(sentence.denied[start])
            value = f"no {name}" if denied else name
            found.append((denied, _stated(sentence, start, end, "finding", value, bool(sentence.hedged[start]))))
    if found:
        return min(found, key=lambda each: each[0])[1]
    for sentence in sentences:
        if said := sentence.lexicon.words.normal.search(sentence.text.chars):
            hedged = bool(sentence.hedged[said.end() - 1])
            return _stated(sentence, *said.span(), "finding", NORMAL, hedged)
    return None


def _structures(sentences: list[Sentence]) -> list[Stated]:
    """All structures in the vocabulary's order; a bare name gives way to one with a side."""
    named: dict[str, Stated] = {}
    unclear: dict[str, tuple[Sentence, Mention]] = {}
    for sentence in sentences:
        for mention in sentence.mentions:
            if mention.negated or mention.structure.name == NODULE:
                continue
            if mention.maybe_both:
                unclear.setdefault(mention.structure.name, (sentence, mention))
                continue
            for name in mention.names:
                named.setdefault(name, _structure(sentence, mention, name))
    found: list[Stated] = []
    for structure in STRUCTURES:
        sided = [named[name] for name in structure.sided(("right", "left")) if name in named]
        if not sided and structure.name in unclear:
            sided = [_structure(*unclear[structure.name], name) for name in structure.sided(("right", "left"))]
        found += sided or [named[name] for name in (structure.name,) if name in named]
    return found


def _structure(sentence: Sentence, mention: Mention, name: str, field: str = "structure") -> Stated:
    return _stated(sentence, mention.start, mention.end, field, name, bool(sentence.hedged[mention.start]))


# --- region of interest ------------------------------------------------------------------------------------------


def _region_of(stated: list[Stated]) -> Region | None:
    values = {each.claim.field: each.claim.value for each in stated}
    if not values:
        return None
    return Region(str(values.get("region", "")), str(values.get("position", "")), float(values.get("area", 0.0)))


def _region(sentences: list[Sentence]) -> list[Stated]:
    """What is said of the region of interest, or of the lesion when nothing is called so: up to three claims."""
    for is_lesion in (False, True):
        for index, sentence in enumerate(sentences):
            words = sentence.lexicon.region
            found = (words.lesion if is_lesion else words.region).search(sentence.text.chars)
            if found is None or sentence.denied[found.start()]:
                continue
            going_on = takewhile(_goes_on, sentences[index + 1 : index + 4])
            structure = _region_structure(sentence, found.start(), is_lesion)
            place = list(_place_and_size([sentence, *going_on]))
            # A lesion that is only mentioned is a finding; it is a region once somebody says where or how large.
            if place or (structure and not is_lesion):
                return [*structure, *place]
    return []


def _goes_on(sentence: Sentence) -> bool:
    return sentence.lexicon.region.goes_on.match(sentence.text.chars) is not None


def _region_structure(sentence: Sentence, cue: int, is_lesion: bool) -> list[Stated]:
    """The first structure after the cue, other than one the region lies next to."""
    words, chars = sentence.lexicon.region, sentence.text.chars
    candidates = [
        mention
        for mention in sentence.mentions
        if not mention.negated and not words.neighbour.search(chars, max(0, mention.start - 40), mention.start)
    ]
    after = [mention for mention in candidates if mention.end > cue]
    before = [mention for mention in candidates if mention.end <= cue] if is_lesion and words.place_comes_first else []
    for mention in [*after[:1], *before[-1:]]:
        name = mention.names[0] if len(mention.names) == 1 else mention.structure.name
        return [_structure(sentence, mention, name, "region")]
    return []


def _place_and_size(sentences: list[Sentence]) -> Iterator[Stated]:
    """Position and area: the most trusted pattern in any of the sentences before the next one."""
    texts = [(sentence.lexicon.region, sentence.without_mentions()) for sentence in sentences]
    words = sentences[0].lexicon.region
    for pattern in words.positions:
        if found := next(((text, match) for _, text in texts if (match := pattern.search(text.chars))), None):
            text, match = found
            groups = match.groupdict()
            row = words.rows.get(groups.get("row") or "", "middle")
            column = words.columns.get(groups.get("column") or "", "center")
            yield Stated(*text.origin(*match.span()), Claim("position", f"{row}-{column}"), hedged=False)
            break
    for pattern in words.areas:
        if found := next(((text, match) for _, text in texts if (match := pattern.search(text.chars))), None):
            text, match = found
            if percent := _percent(words, match["under"], match["low"], match.groupdict().get("high")):
                yield Stated(*text.origin(*match.span()), Claim("area", percent), hedged=False)
            break


def _percent(words: RegionWords, under: str | None, low: str, high: str | None) -> float:
    """The middle of "10-15%", half of "less than 1%"."""
    smaller, larger = words.number(low), words.number(high or low)
    return smaller / 2 if under else (smaller + larger) / 2
