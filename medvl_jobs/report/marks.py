"""The claims of an answer, marked in its text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from medvl_jobs.report.shape import ClaimMark


@dataclass(frozen=True)
class Piece:
    """A piece of an answer."""

    text: str
    right: bool | None = None
    """None where it claims nothing."""
    claims: str = ""
    """What it claims, for a reader: ``modality: CT``."""


def marked(text: str, claims: Sequence[ClaimMark]) -> list[Piece]:
    """The text in pieces, cut where a claim begins or ends; where claims overlap, one that is wrong makes it wrong."""
    cuts = sorted({0, len(text), *(each[side] for each in claims for side in ("start", "end"))})
    pieces = []
    for start, end in pairwise(cuts):
        here = [each for each in claims if each["start"] <= start and end <= each["end"]]
        wrong = [each for each in here if not each["right"]]
        told = "; ".join(dict.fromkeys(f"{each['field'].replace('_', ' ')}: {each['value']}" for each in wrong or here))
        pieces.append(Piece(text[start:end], None if not here else not wrong, told))
    return pieces
