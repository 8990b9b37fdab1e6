"""The names that facts are made of, and the form of a language's lexicon."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from medvl_jobs.eval.traced import Piece

NODULE = "lung nodule"
"""A region of interest, but no structure: an answer that lists what is in view does not list it."""


@dataclass(frozen=True)
class Structure:
    """One anatomical structure."""

    name: str
    paired: bool = False
    """There is a right one and a left one."""

    def sided(self, sides: Iterable[str]) -> tuple[str, ...]:
        """``right lung``, ``left lung``; the bare name when the structure has no sides or none was said."""
        return (tuple(f"{side} {self.name}" for side in sides) if self.paired else ()) or (self.name,)


STRUCTURES = (
    Structure("lung", paired=True),
    Structure("heart"),
    Structure("aorta"),
    Structure("trachea"),
    Structure("esophagus"),
    Structure("liver"),
    Structure("gallbladder"),
    Structure("spleen"),
    Structure("stomach"),
    Structure("pancreas"),
    Structure("small bowel"),
    Structure("colon"),
    Structure("spine"),
    Structure("kidney", paired=True),
    Structure("scapula", paired=True),
    Structure("frontal lobe", paired=True),
    Structure("parietal lobe", paired=True),
    Structure("temporal lobe", paired=True),
    Structure("occipital lobe", paired=True),
    Structure("insula", paired=True),
    Structure("cingulate cortex", paired=True),
    Structure("basal ganglia", paired=True),
    Structure("thalamus", paired=True),
    Structure("cerebellum", paired=True),
    Structure("cerebellar vermis"),
    Structure(NODULE),
    # Beyond the demo: what MedTrinity's captions often name.
    Structure("bladder"),
    Structure("prostate"),
    Structure("uterus"),
    Structure("thyroid"),
    Structure("mediastinum"),
    Structure("brainstem"),
    Structure("corpus callosum"),
    Structure("spinal cord"),
    Structure("optic disc"),
    Structure("macula"),
    Structure("cerebral hemisphere", paired=True),
    Structure("adrenal gland", paired=True),
    Structure("lateral ventricle", paired=True),
    Structure("rib", paired=True),
    Structure("clavicle", paired=True),
    Structure("femur", paired=True),
)
"""In the order in which a caption lists them; a side is always the patient's, the right one first."""

WHOLE_WORDS = r"\b(?:{})\b"
"""How a table matches in a language that puts blanks between words …"""
ANYWHERE = "(?:{})"
"""… and in one that does not."""


class Table:
    """A name and a regular expression of the words for it, many times, searched for as one pattern.

    Trap: a group per name would tell which one matched, and be four times as slow; `re` skips an alternative by its
    first letter only where no group begins there. So all are searched for together, and a find is looked up.
    """

    def __init__(self, words: Mapping[str, str], form: str) -> None:
        self._any = re.compile(form.format("|".join(words.values())))
        self._each = [(name, re.compile(form.format(pattern))) for name, pattern in words.items()]

    def find(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Each name with the characters ``[start, end)`` of its words, from the left."""
        for match in self._any.finditer(text):
            start, end = match.span()
            yield next(name for name, each in self._each if each.match(text, start)), start, end


@dataclass(frozen=True)
class Words:
    """What is named by words alone."""

    modalities: Table
    planes: Table
    body_parts: Table
    findings: Table
    structures: Table
    """Names of `STRUCTURES`; with ``BOTH`` behind them where the words name the pair, "lungs"."""
    normal: re.Pattern[str]
    """Says of the picture that nothing is wrong with it."""


BOTH = " (both)"


@dataclass(frozen=True)
class Sides:
    """How a structure's side is said. The group that matched is a key of ``meaning``."""

    before: re.Pattern[str]
    """Ends where the structure's words begin."""
    after: re.Pattern[str]
    """Begins where they end."""
    meaning: Mapping[str, tuple[str, ...]]
    plural_is_marked: bool
    """Otherwise a paired structure without a side means both, unless its side is said elsewhere."""


@dataclass(frozen=True)
class Scope:
    """Words that change what stands after or before them, and how far that reaches."""

    after: re.Pattern[str]
    ends: re.Pattern[str]
    """Where the reach of ``after`` ends: at the start of a match."""
    before: re.Pattern[str]
    starts: re.Pattern[str]
    """Where the reach of ``before`` starts: at the end of a match."""


@dataclass(frozen=True)
class RegionWords:
    """How the region of interest is spoken of."""

    region: re.Pattern[str]
    lesion: re.Pattern[str]
    goes_on: re.Pattern[str]
    """Begins a sentence that still speaks of the region."""
    neighbour: re.Pattern[str]
    """Ends where a structure begins that the region only lies next to."""
    positions: tuple[re.Pattern[str], ...]
    """In the order of trust, with groups ``row`` and ``column``; an axis that is not mentioned is the middle one."""
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    areas: tuple[re.Pattern[str], ...]
    """In the order of trust, with groups ``under``, ``low`` and ``high``."""
    number: Callable[[str], float]
    place_comes_first: bool
    """ "In the right lung a mass is seen" is the usual order: a lesion's structure may stand before it."""


@dataclass(frozen=True)
class Lexicon:
    """One language."""

    words: Words
    sides: Sides
    denial: Scope
    hedge: Scope
    region: RegionWords
    rewrites: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], Iterable[Piece]]], ...]
    """Makes one sentence easier to read before anything else looks at it."""
