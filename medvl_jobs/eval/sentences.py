"""An answer's sentences, and which of their words are denied, hedged, or name a structure."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from medvl_jobs.eval.lexicon.chinese_rules import CHINESE
from medvl_jobs.eval.lexicon.english_rules import ENGLISH
from medvl_jobs.eval.lexicon.vocabulary import BOTH, STRUCTURES, Lexicon, Scope, Structure
from medvl_jobs.eval.thoughts import answer_start
from medvl_jobs.eval.traced import Traced

_ASCII = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}
"""Full-width forms to ASCII: ``，`` to ``,``, ``％`` to ``%`` …"""
_DASHES = dict.fromkeys(range(0x2010, 0x2015), "-")
_SAME_LENGTH = str.maketrans({**_ASCII, **_DASHES, 0xFF01: "。", 0xFF1F: "。", 0x3010: "(", 0x3011: ")", 0x2019: "'"})
"""… but the Chinese ``！`` and ``？`` to ``。``: no blank follows them to tell the end of a sentence."""
_HYPHENS = re.compile(r"(?<![\d%])-|-(?!\d)")
_MARKDOWN = re.compile(r"[*`_#]")
_BLANKS = re.compile(r"[^\S\n]+")
_SENTENCE_END = re.compile(r"(?<!approx)(?<!\bca)(?<!\bi\.e)(?<!\be\.g)[.!?](?=\s|$)|[\n。]")
_HAN, _LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[a-z]+")
_STRUCTURES = {structure.name: structure for structure in STRUCTURES}


@dataclass(frozen=True)
class Mention:
    """A structure named in a sentence, with the stretch of text that its name and side take up."""

    structure: Structure
    sides: tuple[str, ...]
    maybe_both: bool
    """No side is said, and the language does not tell one from two."""
    start: int
    end: int
    negated: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names, the right one first."""
        return self.structure.sided(self.sides)


@dataclass
class Sentence:
    """One sentence in its language. ``denied`` and ``hedged`` say of each character whether it is."""

    text: Traced
    lexicon: Lexicon
    denied: bytearray = field(init=False)
    hedged: bytearray = field(init=False)
    mentions: list[Mention] = field(init=False)

    def __post_init__(self) -> None:
        self.denied = reach(self.lexicon.denial, self.text.chars)
        self.hedged = reach(self.lexicon.hedge, self.text.chars)
        self.mentions = [self._mention(*found) for found in self.lexicon.words.structures.find(self.text.chars)]

    def _mention(self, name: str, start: int, end: int) -> Mention:
        structure, sides, chars = _STRUCTURES[name.removesuffix(BOTH)], self.lexicon.sides, self.text.chars
        said, first, last = "", start, end
        if structure.paired:
            if before := sides.before.search(chars, max(0, start - 60), start):
                said, first = before[1], before.start()
            elif after := sides.after.match(chars, end):
                said, last = next(filter(None, after.groups())), after.end()
        meant = sides.meaning.get(said) or (("right", "left") if name.endswith(BOTH) else ())
        unclear = structure.paired and not meant and not sides.plural_is_marked
        return Mention(structure, meant, unclear, first, last, bool(self.denied[start]))

    def without_mentions(self) -> Traced:
        """The text with a blank for each structure: the "left" of "left lung" is not a place in the image."""
        spans: list[tuple[int, int]] = []
        for mention in self.mentions:
            at = max(mention.start, spans[-1][1] if spans else 0)
            if at < mention.end:
                spans.append((at, mention.end))
        return self.text.replaced((" ", start, end) for start, end in spans)


def sentences_of(text: str) -> list[Sentence]:
    """The sentences that say something, each in its language; thoughts before the answer are left out.

    They end at ``. ! ?`` before a blank, at ``。！？`` and at a line's end. One is Chinese when it has more Chinese
    characters than Latin words: "胸部CT轴位" is, "The image (图像)" is not.
    """
    start = answer_start(text)
    whole, sentences, at = normalise(text[start:], start), [], 0
    for end, following in _ends(whole.chars):
        part, at = whole.part(at, end), following
        if part.chars.strip():
            han = len(_HAN.findall(part.chars))
            lexicon = CHINESE if han and han > len(_LATIN.findall(part.chars)) else ENGLISH
            for pattern, replace in lexicon.rewrites:
                part = part.sub(pattern, replace)
            sentences.append(Sentence(part, lexicon))
    return sentences


def _ends(chars: str) -> Iterator[tuple[int, int]]:
    """Where each sentence ends, and where the next one begins."""
    for match in _SENTENCE_END.finditer(chars):
        yield match.start(), match.end()
    yield len(chars), len(chars)


def normalise(text: str, offset: int = 0) -> Traced:
    """Lower case, hyphens (not those of "10-15%") and runs of blanks as one space, no Markdown, American "center".

    ``offset``: where in the original the text begins.
    """
    lower = text.lower()
    if len(lower) != len(text):  # "İ" becomes two characters
        lower = "".join(each.lower() if len(each.lower()) == 1 else each for each in text)
    same_length = _HYPHENS.sub(" ", lower.translate(_SAME_LENGTH).replace("centre", "center"))
    return Traced.of(same_length, offset).sub(_MARKDOWN, "").sub(_BLANKS, " ")


def reach(scope: Scope, text: str) -> bytearray:
    """For each character whether it stands in reach of one of the scope's words.

    The borders of all clauses are found once, and no character is marked twice from one side: looking for them at every
    word takes minutes on an answer that repeats "no no no" to its end.
    """
    reached = bytearray(len(text))
    ends = [*(match.start() for match in scope.ends.finditer(text)), len(text)]
    done = 0
    for cue in scope.after.finditer(text):
        end = ends[bisect_left(ends, cue.end())]
        start = max(done, cue.start())
        reached[start:end] = b"\1" * (end - start)
        done = max(done, end)
    starts = [0, *(match.end() for match in scope.starts.finditer(text))]
    done = 0
    for cue in scope.before.finditer(text):
        start = max(done, starts[bisect_right(starts, cue.start()) - 1])
        reached[start : cue.start()] = b"\1" * (cue.start() - start)
        done = max(done, cue.start())
    return reached
