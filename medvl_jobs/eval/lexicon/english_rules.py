"""How English says sides, negations, hedges, positions and percentages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medvl_jobs.eval.lexicon import english
from medvl_jobs.eval.lexicon.vocabulary import BOTH, WHOLE_WORDS, Lexicon, RegionWords, Scope, Sides, Table, Words
from medvl_jobs.eval.traced import Piece

# --- sides -------------------------------------------------------------------------------------------------------

_BETWEEN = (
    r"(?:(?:lobes? of the|(?:upper|middle|lower|mid|superior|inferior|anterior|posterior|medial|lateral|dorsal)"
    r"(?:,? and|,? or|,)?) )*"
)
SIDES = Sides(
    # Trap: no bare "of the" in between, or the image's "upper left of the lung" would be the patient's left lung.
    before=re.compile(rf"\b(left|right|both|bilateral)(?: sided)? {_BETWEEN}$"),
    after=re.compile(
        r" \((left|right)\)| on the (left|right)\b(?: side)?(?! of the image)| (bilaterally|on both sides)\b"
        r"| (left|right)(?= ?(?:[,;:)]|$|(?:and|in|next|located)\b))"
    ),
    meaning={
        "left": ("left",),
        "right": ("right",),
        **dict.fromkeys(("both", "bilateral", "bilaterally", "on both sides"), ("right", "left")),
    },
    plural_is_marked=True,
)

# --- negation ----------------------------------------------------------------------------------------------------

_SHOW = r"(?:show|depict|include|contain|reveal|demonstrate|display|indicate|have|see|identify)"
_SEEN = (
    r"(?:seen|visible|present|shown|visuali[sz]ed|identified|marked|evident|noted|detected|observed|included|depicted"
    r"|demonstrated|in view)"
)
_VERB = (
    rf"is|are|was|were|lies?|occup\w+|cover\w*|{_SHOW}(?:s|ed)?|showing|depicting|including|revealing|demonstrating"
    rf"|displaying|indicating|{_SEEN}"
)
_TURN = r"but|only|however|although|though|while|whereas|except|yet"

DENIAL = Scope(
    after=re.compile(
        r"\b(?:no(?! (?:significant |interval )?(?:change|increase|growth|longer))"
        rf"|without(?! (?:intravenous |iv )?contrast)|nor|neither(?: (?:of the )?(?:\w+ ){{1,2}}{_SHOW}\w*)?"
        r"|absence of|lack(?:s|ing)?(?: of)?|free of|free from"
        r"|negative for|rather than|unlikely(?: to be| that)|not likely"
        r"|(?<!to )(?<!not )(?<!cannot )(?<!can't )rules? out|excludes|not (?:an?|any|the)\b"
        rf"|(?:(?:does|do|did|can|could) ?not|(?:doesn|don|didn|can|couldn)'t|not) {_SHOW}\w*)\b"
        rf"(?:(?: any)?(?: \w+ly)? {_SEEN}\b)?"  # "no visible nodules": it is no verb here, and ends nothing
    ),
    ends=re.compile(
        rf"[;:]|\b(?:{_TURN}|{_VERB}|in|within|on|by|at|along|throughout|involving"
        r"|of (?:the|both|either)|, (?:and|with) (?:the|an?|both|there|otherwise))\b"
    ),
    # Trap: "not" alone does neither, "the nodule is not calcified" is about a nodule.
    before=re.compile(
        r"(?:\b(?:is|are|was|were|be|has|have|could|can)?(?: ?not|n't)|\bcannot)(?: (?:be|been))?(?: \w+ly)?"
        rf" {_SEEN}\b"
        r"|\b(?:is|are|was|were) (?:absent|excluded|ruled out|(?:very |highly )?unlikely)\b(?! to)|\babsent\b"
        r"|\b(?:is|are|was|were|has been|have been) (?:\w+ly )?(?:removed|resected)\b"
    ),
    starts=re.compile(rf"[;:]|\b(?:{_TURN}|{_VERB})\b"),
)

# --- hedges ------------------------------------------------------------------------------------------------------

_NOT_EXCLUDED = (
    r"\b(?:cannot|can't|can not) be (?:\w+ly )?(?:excluded|ruled out)\b"
    r"|\b(?:is|are|was|were|has|have)(?: ?not|n't)(?: been)? (?:\w+ly )?(?:excluded|ruled out)\b"
)
"""Hedges the whole clause, what stands before and after."""
_DOUBT = r"(?:possible|probable|likely|unlikely|suspected|questionable|suggested|conceivable)"
HEDGE = Scope(
    after=re.compile(
        r"\b(?:may|might|could|possibl[ey]|probabl[ey]|likely(?!,)|unlikely|perhaps|potential(?:ly)?|presumabl[ey]|presumed"
        r"|suspected|suspicious|suspicion|suspect|uncertainty|doubt(?:ful)?"
        r"|concern(?:ing)? for|questionable|(?:appears?|seems?)(?: to|ing)"
        r"|suggest(?:s|ed|ing|ive)?|(?:can(?:not|'t)|not|to) (?:entirely |completely )?(?:exclude|rule out)"
        rf"|(?:unclear|uncertain|unknown) (?:whether|if))\b|{_NOT_EXCLUDED}"
    ),
    ends=re.compile(rf"[;:]|\b(?:{_TURN})\b"),
    before=re.compile(
        rf"{_NOT_EXCLUDED}"
        rf"|\b(?:is|are|was|were|remains?)(?: \w+ly)? {_DOUBT}(?= ?(?:[,;:)]|$|(?:and|but|in|at|on|given|because)\b))"
    ),
    starts=re.compile(rf"[;:]|\b(?:{_TURN})\b"),
)

# --- region of interest ------------------------------------------------------------------------------------------

ROWS = {
    **dict.fromkeys(("upper", "top", "superior"), "upper"),
    **dict.fromkeys(("lower", "bottom", "inferior"), "lower"),
    **dict.fromkeys(("middle", "mid", "center", "central"), "middle"),
}
COLUMNS = {"left": "left", "right": "right", **dict.fromkeys(("middle", "mid", "center", "central"), "center")}
_ROW, _COLUMN = "|".join(ROWS), "|".join(COLUMNS)
_IMAGE = r"(?:image|picture|slice|scan|frame)"
_PLACE = (
    r"(?:part|portion|area|region|(?:hand )?side|third|half|section|corner|edge"
    rf"|(?:quadrant )?of (?:the|this) {_IMAGE})"
)
_PERCENT = (
    r"(?P<under>(?:less than|under|below|<) ?)?(?P<low>\d+(?:[.,]\d+)?)"
    r"(?:(?: ?%)?(?:-| ?to )(?P<high>\d+(?:[.,]\d+)?))? ?(?:%|percent\b|per cent\b)"
)
FRACTIONS = {
    "tenth": 10.0,
    "fifth": 20.0,
    "half": 50.0,
    "third": 33.3,
    "quarter": 25.0,
    "two thirds": 66.7,
    "three quarters": 75.0,
}


def number(words: str) -> float:
    """``12.5``, ``12,5`` and ``third`` in percent."""
    return FRACTIONS[words] if words in FRACTIONS else float(words.replace(",", "."))


REGION = RegionWords(
    region=re.compile(
        r"\b(?:regions?|areas?) of (?:interest|concern)\b|\broi\b|\blargest\b"
        r"|\b(?:marked|annotated|highlighted) (?:area|region)\b"
    ),
    lesion=re.compile(
        r"\b(?:lesions?|abnormalit(?:y|ies)|opacit(?:y|ies)|(?:affected|abnormal) (?:area|region)s?"
        rf"|{'|'.join(english.FINDINGS.values())})\b"
    ),
    goes_on=re.compile(
        r"\s*(?:it|its|(?:this |the )?"
        r"(?:area|region|lesion|roi|mass|nodule|abnormality|opacity|position|location|size))\b"
    ),
    neighbour=re.compile(
        r"\b(?:next to|adjacent to|near|close to|proximity to|beside|behind|relative to|compared (?:to|with)|than|above"
        r"|below|between|in front of|surrounding|to the (?:left|right) of|(?:compress|displac|abut)\w*"
        r"|(?:anterior|posterior|superior|inferior|lateral|medial)(?:ly)? to)"
        r"(?: the| an?)?(?: (?:adjacent|surrounding|neighboring|nearby|normal))* $"
    ),
    positions=(
        re.compile(r"(?<!upper )(?<!lower )(?<!top )(?<!bottom )\b(?P<column>left|right) center\b"),
        re.compile(rf"\b(?P<row>{_ROW}) (?P<column>{_COLUMN})\b"),
        # Trap: "right upper quadrant" without such a word is a place in the patient.
        re.compile(rf"\b(?P<column>left|right) (?P<row>{_ROW}) {_PLACE}\b"),
        re.compile(r"\b(?:mid|middle|center|central) (?P<row>upper|top|lower|bottom)\b"),
        re.compile(
            rf"\b(?:(?P<row>{_ROW})|(?P<column>left|right)) {_PLACE}\b(?! of the (?:patient|body)| of(?: the)?  )"
            # Trap: two blanks are a structure, and the upper part of the liver is a place in the patient.
            r"|\bcentrally\b"
            r"|\b(?:in|at) the (?:center|middle)\b"
        ),
    ),
    rows=ROWS,
    columns=COLUMNS,
    areas=(
        re.compile(rf"{_PERCENT} of (?:the |its |this )?(?:\w+ )?(?:image|area|picture|slice|frame|field|scan|view)\b"),
        re.compile(_PERCENT),
        re.compile(
            # Trap: the left half of the image is a place.
            r"(?<!left )(?<!right )(?<!upper )(?<!lower )(?<!top )(?<!bottom )(?<!middle )(?<!central )"
            rf"(?P<under>less than |under )?(?P<low>{'|'.join(FRACTIONS)}) "
            rf"of (?:it\b|(?:the |its |this )?(?:\w+ )?{_IMAGE}\b)"
        ),
    ),
    number=number,
    place_comes_first=False,
)

# --- lists of sides and lobes ------------------------------------------------------------------------------------

_PAIR = re.compile(r"\b(?:left(?: and | or |/| & )(?:the )?right|right(?: and | or |/| & )(?:the )?left)\b")
_MIXED_LOBE = re.compile(r"\b(upper|middle|lower) (left|right) (lobes?)\b")
_NAMES = {stem + end: f"{stem}al" for stem in ("front", "pariet", "tempor", "occipit") for end in ("al", "o")}
_NAME = rf"(?:{'|'.join(_NAMES)})"
_LOBE = rf"(?:(?:left|right|both|bilateral) )?{_NAME}"
_LOBE_LIST = re.compile(
    rf"\b({_LOBE}(?:(?:, and |, or |, | and | or |/| |(?<=o)){_LOBE}){{1,6}})"
    rf"(?: (?:lobes?|cortex|cortices|regions?|areas?|white matter)\b|(?= {english.LESION_NOUN}\b))"
)
_SIDE_OR_NAME = re.compile(rf"left|right|both|bilateral|{_NAME}")


def _spell_out(match: re.Match[str]) -> Iterator[Piece]:
    """``right frontal and parietal lobes`` -> ``right frontal lobe, right parietal lobe``; no side means both.

    So is ``right frontoparietal region``.
    """
    side, start = "both", -1
    words = list(_SIDE_OR_NAME.finditer(match.string, match.start(1), match.end(1)))
    for word in words:
        if word[0] in SIDES.meaning:
            side, start = word[0], word.start()
            continue
        yield (
            f"{side} {_NAMES[word[0]]} lobe" + " " * word[0].endswith("o"),
            start if start >= 0 else word.start(),
            match.end() if word is words[-1] else word.end(),
        )
        start = -1


def _side_first(match: re.Match[str]) -> Iterator[Piece]:
    """``upper left lobe`` -> ``left upper lobe``."""
    yield f"{match[2]} {match[1]} {match[3]}", *match.span()


def _structures() -> dict[str, str]:
    """The words for the pair go before those for one: the longer ones."""
    words: dict[str, str] = {}
    for name, each in english.STRUCTURES.items():
        one, both = each if isinstance(each, tuple) else (each, "")
        words |= {name + BOTH: both, name: one} if both else {name: one}
    return words


ENGLISH = Lexicon(
    words=Words(
        modalities=Table(english.MODALITIES, WHOLE_WORDS),
        planes=Table(english.PLANES, WHOLE_WORDS),
        body_parts=Table(english.BODY_PARTS, WHOLE_WORDS),
        findings=Table(english.FINDINGS, WHOLE_WORDS),
        structures=Table(_structures(), WHOLE_WORDS),
        normal=re.compile(english.NORMAL),
    ),
    sides=SIDES,
    denial=DENIAL,
    hedge=HEDGE,
    region=REGION,
    rewrites=((_PAIR, "both"), (_MIXED_LOBE, _side_first), (_LOBE_LIST, _spell_out)),
)
