"""Read a caption's claims out of its words.

Rules of reading, in the order in which they apply (the words are in `lexicon`):

1. *Sentences* end at ``. ! ?`` before a space and at a line's end. A claim counts only where it is not negated; a hedge
   ("may", "likely") does not weaken it.
2. *Negation* reaches from its cue to the end of the clause, of the list, or to the next verb or place: "no nodule,
   mass or effusion in the right lung" denies three findings and no lung. "X is not seen" denies what stands before it.
   After NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029), with its exceptions such as "without contrast".
3. *Modality, plane and body part* are the first ones named.
4. *Structures* are all that are named. A side is the patient's; it stands before ("right lower lobe of the lung") or
   after ("lung lower lobe right", "kidney on the left"). A plural without a side means both. A bare "lung" is a claim
   of its own, which neither ``left lung`` nor ``right lung`` fulfils; it is dropped where a side is named elsewhere.
5. *The region* is spoken of in the sentence that says "region of interest" or "largest", or else in the first one with
   a lesion; up to three sentences go on about it when they begin with "it" or "this region". Structure: the first one
   named after those words. Position: ``upper left`` before ``left upper part`` before ``upper part``, where the axis
   that is not mentioned is the middle one. Area: a percentage of the image, or else the first; "less than 1%" is 0.5.
6. *Finding* is the first one claimed, or else the first one denied, as ``no nodule``.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from medvl_jobs.contracts.facts import Facts, Region
from medvl_jobs.eval import lexicon


def read_facts(text: str) -> Facts:
    """The claims of a free-text caption; see the rules above.

    A region may be stated in part, while `Region` has no optional fields: ``""`` and an area of 0 stand for what is not
    stated (a region of no pixels does not exist, so nothing is lost).
    """
    sentences = [_Sentence(part) for part in _SENTENCE_END.split(normalise(text)) if part.strip()]
    mentions = [mention for sentence in sentences for mention in sentence.mentions if not mention.negated]
    return Facts(
        modality=_first(_MODALITY, sentences),
        plane=_first(_PLANE, sentences),
        body_part=_first(_BODY_PART, sentences),
        structures=_structures(mentions),
        region=_region(sentences),
        finding=_finding(sentences),
    )


def normalise(text: str) -> str:
    """Lower case, hyphens (not those of "10-15%") and runs of blanks as one space, no Markdown, American "center"."""
    text = re.sub(r"[*`_#]", "", text.lower()).replace("centre", "center").replace("\u2019", "'")
    text = re.sub(r"(?<!\d)[-\u2010-\u2014]|[-\u2010-\u2014](?!\d)", " ", text)
    text = _PAIR.sub("both", re.sub(r"[^\S\n]+", " ", text))
    return _LOBE_LIST.sub(_spell_out, text)


_SENTENCE_END = re.compile(r"(?<!approx)(?<!\bca)[.!?](?=\s|$)|\n")
_PAIR = re.compile(r"\b(?:left(?: and | or |/| & )(?:the )?right|right(?: and | or |/| & )(?:the )?left)\b")
_LOBE = r"(?:(?:left|right|both|bilateral) )?(?:frontal|parietal|temporal|occipital)"
_LOBE_LIST = re.compile(
    rf"\b({_LOBE}(?:(?:, and |, or |, | and | or |/){_LOBE}){{1,6}}) (lobes?|cortex|cortices|regions?)\b"
)


def _spell_out(match: re.Match[str]) -> str:
    """``right frontal and parietal lobes`` -> ``right frontal lobe, right parietal lobe``; no side means both."""
    side, spelled = "both", []
    for word in re.findall(r"left|right|both|bilateral|frontal|parietal|temporal|occipital", match[1]):
        if word.endswith("al") and word != "bilateral":
            spelled.append(f"{side} {word} lobe")
        else:
            side = word
    return ", ".join(spelled)


class _Table:
    """A table of the lexicon as one pattern; the group that matched tells which entry it was."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = tuple(names)
        self.pattern = re.compile("|".join(rf"\b(?P<g{i}>{words})\b" for i, words in enumerate(names.values())))

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Where each name stands, from the left."""
        for match in self.pattern.finditer(text):
            yield match.start(), self.names[int((match.lastgroup or "g0")[1:])]


_MODALITY, _PLANE, _BODY_PART, _FINDING = (
    _Table(names) for names in (lexicon.MODALITIES, lexicon.PLANES, lexicon.BODY_PARTS, lexicon.FINDINGS)
)


@dataclass(frozen=True)
class _Mention:
    """A structure named in a sentence, with the stretch of text that its name and side take up."""

    structure: lexicon.Structure
    sides: tuple[str, ...]
    start: int
    end: int
    negated: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names, the right one first."""
        return self.structure.sided(self.sides)


@dataclass
class _Sentence:
    """One sentence with what is denied in it and the structures it names."""

    text: str
    denied: bytearray = field(init=False)
    mentions: list[_Mention] = field(init=False)

    def __post_init__(self) -> None:
        self.denied = _denied(self.text)
        self.mentions = [self._mention(match) for match in _STRUCTURE.finditer(self.text)]

    def negates(self, where: int) -> bool:
        """Whether the word at this place is denied."""
        return bool(self.denied[where])

    def _mention(self, match: re.Match[str]) -> _Mention:
        group = match.lastgroup or ""
        structure = lexicon.STRUCTURES[int(group[1:])]
        before = lexicon.SIDE_BEFORE.search(self.text, max(0, match.start() - 60), match.start())
        after = lexicon.SIDE_AFTER.match(self.text, match.end())
        said = before[1] if before else next(filter(None, after.groups())) if after else ""
        plural = "both" if group[0] == "b" else ""
        end = after.end() if after and not before else match.end()
        start = before.start() if before else match.start()
        return _Mention(structure, lexicon.SIDES.get(said or plural, ()), start, end, self.negates(match.start()))


_STRUCTURE = re.compile(
    "|".join(
        (rf"\b(?P<b{i}>{structure.both})\b|" if structure.both else "") + rf"\b(?P<w{i}>{structure.words})\b"
        for i, structure in enumerate(lexicon.STRUCTURES)
    )
)


def _first(table: _Table, sentences: list[_Sentence]) -> str | None:
    """The first name of a table that is not denied."""
    return next((name for s in sentences for at, name in table.find(s.text) if not s.negates(at)), None)


def _finding(sentences: list[_Sentence]) -> str | None:
    """A claimed finding beats a denied one: "a nodule …, no other nodule"."""
    found = [(sentence.negates(at), name) for sentence in sentences for at, name in _FINDING.find(sentence.text)]
    denied, name = min(found, key=lambda each: each[0], default=(False, None))
    return f"no {name}" if denied else name


def _structures(mentions: list[_Mention]) -> tuple[str, ...]:
    """All structures in the lexicon's order; a bare name gives way to one with a side."""
    named = {name for mention in mentions for name in mention.names}
    found: list[str] = []
    for structure in lexicon.STRUCTURES:
        sided = [name for name in structure.sided(("right", "left")) if name in named]
        found += sided or [name for name in (structure.name,) if name in named]
    return tuple(name for name in found if name != lexicon.NODULE)


# --- negation ----------------------------------------------------------------------------------------------------


def _denied(text: str) -> bytearray:
    """For each character whether it is said not to be so.

    The borders of all clauses are found once: looking for them at every cue takes minutes on an answer that repeats
    "no no no" to its end.
    """
    denied = bytearray(len(text))
    ends = [*(match.start() for match in lexicon.DENIAL_ENDS.finditer(text)), len(text)]
    for cue in lexicon.DENIES_AFTER.finditer(text):
        end = ends[bisect_left(ends, cue.end())]
        denied[cue.start() : end] = b"\1" * (end - cue.start())
    starts = [0, *(match.end() for match in lexicon.CLAUSE_STARTS.finditer(text))]
    for cue in lexicon.DENIES_BEFORE.finditer(text):
        start = starts[bisect_right(starts, cue.start()) - 1]
        denied[start : cue.start()] = b"\1" * (cue.start() - start)
    return denied


# --- region of interest ------------------------------------------------------------------------------------------


def _region(sentences: list[_Sentence]) -> Region | None:
    """What is said of the region of interest, or of the lesion when nothing is called so."""
    for cue in (lexicon.REGION, lexicon.LESION):
        for index, sentence in enumerate(sentences):
            found = cue.search(sentence.text)
            if found is None or sentence.negates(found.start()):
                continue
            going_on = takewhile(lambda each: lexicon.GOES_ON.match(each.text), sentences[index + 1 : index + 4])
            text = " ; ".join(_without_structures(each) for each in (sentence, *going_on))
            region = Region(_region_structure(sentence, found.start()), _position(text), _area(text))
            # A lesion that is only mentioned is a finding; it is a region once somebody says where or how large.
            if region.position or region.area_percent or (cue is lexicon.REGION and region.structure):
                return region
    return None


def _region_structure(sentence: _Sentence, cue: int) -> str:
    """The first structure after the cue, other than one the region lies next to."""
    for mention in sentence.mentions:
        is_neighbour = lexicon.NEIGHBOUR.search(sentence.text, max(0, mention.start - 40), mention.start)
        if mention.end > cue and not mention.negated and not is_neighbour:
            return mention.names[0] if len(mention.names) == 1 else mention.structure.name
    return ""


def _without_structures(sentence: _Sentence) -> str:
    """The sentence with a blank for each structure: the "left" of "left lung" is not a place in the image."""
    kept, at = [], 0
    for mention in sentence.mentions:
        kept.append(sentence.text[at : mention.start])
        at = max(at, mention.end)
    return " ".join([*kept, sentence.text[at:]])


def _position(text: str) -> str:
    """The cell of the 3 × 3 grid over the image that a text names, or ``""``."""
    if found := lexicon.ROW_COLUMN.search(text):
        return f"{lexicon.ROWS[found[1]]}-{lexicon.COLUMNS[found[2]]}"
    if found := lexicon.COLUMN_ROW.search(text):
        return f"{lexicon.ROWS[found[2] or found[3]]}-{lexicon.COLUMNS[found[1] or 'center']}"
    if found := lexicon.ONE_AXIS.search(text):
        word = next(filter(None, found.groups()))
        return f"{lexicon.ROWS.get(word, 'middle')}-{lexicon.COLUMNS.get(word, 'center')}"
    return ""


def _area(text: str) -> float:
    """Percent of the image: the middle of "10-15%", half of "less than 1%", 0 when nothing is said."""
    found = next(filter(None, (pattern.search(text) for pattern in lexicon.AREAS)), None)
    if found is None:
        return 0.0
    low, high = (float(number.replace(",", ".")) for number in (found["low"], found["high"] or found["low"]))
    return low / 2 if found["under"] else (low + high) / 2
