"""The dataset check as a table for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvl_jobs.page.words import quantity
from medvl_jobs.prep.check.figures import lengths, share
from medvl_jobs.prep.check.words import NO_BREAK, columns, judgement, limit, percent, source_name, verdict
from medvl_jobs.prep.gates import gates
from medvl_jobs.prep.split import SIDES
from medvl_jobs.settings.prep import PrepSettings

WIDTH = 100
_NAMES = 13
"""Columns before the text."""


def render(card: dict[str, Any], prep: PrepSettings, key: str) -> str:
    """The table: what was found, the gates, the verdict. Plain letters, nothing else: it may end in a log."""
    lines = [f"dataset check of {source_name(prep)}, key {key}", ""]
    for name, text in _found(card):
        lines += _wrapped(name, text)
    lines += ["", *_gates(card, prep), "", *textwrap.wrap(verdict(card, prep)[1], WIDTH)]
    return "\n".join(plain(line) for line in lines)


def _found(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rows, split, images, captions = card["rows"], card["split"], card["images"], card["captions"]
    kinds = " and ".join(card["source"]["kinds"])
    yield "source", f"{quantity(card['source']['files'], 'file')} of {kinds}"
    yield "columns", ", ".join(_column(*each) for each in columns(card))
    yield "rows", _counts({name.replace("_", " "): rows[name] for name in ("read", "accepted", "refused", "left_out")})
    sides = (f"{side} {split[side]['rows']:,} in {quantity(split[side]['groups'], 'group')}" for side in SIDES)
    yield "split", ", ".join(sides)
    if card["refused"]:
        yield "refused", _counts(card["refused"])
    if rows["accepted"]:
        yield "came as", _counts(images["came_as"])
        yield "converted", _counts(images["converted"]) or "none: all images are kept to the last bit"
        yield "image size", f"longer side {lengths(images['longer_side_pixels'], 'pixel')}"
        yield "captions", lengths(captions["words"], "word")
        yield "tokens", f"{lengths(captions['tokens'], 'token')} ({_counting(captions['tokens'])})"
        yield "languages", f"{_counts(captions['languages']['found'])} of {captions['languages']['rows']:,} captions"
        top = captions["openings"][0]
        yield (
            "openings",
            f"'{_narrow(top['words'], 60)} …' begins {share(top['rows'], captions['languages']['rows'])} of them",
        )
    for kind, found in card["duplicates"].items():
        done = {
            "move": f"{quantity(found['moved'], 'row')} moved",
            "drop": f"{quantity(found['dropped'], 'row')} left out",
        }
        what = f"{quantity(found['rows'], 'row')}, {found['across']:,} across the split"
        yield f"{kind} copies", f"{what}: {done.get(found['policy'], 'kept')}"


def _column(role: str, name: str, found: str) -> str:
    """``image``, ``image from 'scan'``, ``group in 60 rows``: what must be there needs no word for being there."""
    source = "" if name == role else f" from '{name}'"
    return f"{role}{source} {found}" if role in ("group", "facts") else f"{role}{source}"


def _counting(tokens: Mapping[str, Any]) -> str:
    return "the model's tokenizer" if tokens["exact"] else f"estimated at {tokens['tokens_per_word']} a word"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {rows:,}" for name, rows in counts.items())


def _wrapped(name: str, text: str) -> list[str]:
    first, rest = f"{name:<{_NAMES}}", " " * _NAMES
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _gates(card: dict[str, Any], prep: PrepSettings) -> list[str]:
    rows = [("gate", "found", "share", "limit", "verdict")]
    for gate in gates(card, prep):
        found = f"{gate.rows:,} of {gate.of:,}"
        rows.append((gate.name, found, percent(gate.share), limit(gate), judgement(gate)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_aligned(row, widths) for row in rows]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([f"{cells[0]:<{widths[0]}}", *padded[1:-1], cells[-1]])


def plain(text: str) -> str:
    """Without what a terminal would obey: captions and ids come from strangers."""
    return "".join(letter if letter.isprintable() else "?" for letter in text.replace(NO_BREAK, " "))


def _narrow(text: str, width: int) -> str:
    """As much of a text as fits in ``width`` columns, of which a Chinese letter takes two."""
    used = 0
    for number, letter in enumerate(text):
        used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if used > width:
            return text[:number]
    return text
