"""Which rows the dataset check looks at: one pass over the ledgers, which leaves numbers of rows.

Nobody picks: where many rows have a fault, those with the smallest lots are shown, and lots follow from the ids. Of ids
that come again, the first are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medvl_jobs.prep.captions import UNKNOWN_LANGUAGE
from medvl_jobs.prep.check.captions import drawn
from medvl_jobs.prep.duplicates import DUPLICATE_ID, EXACT, KEEP, near_leaks, nearest, repeats
from medvl_jobs.prep.finalize import Decision
from medvl_jobs.prep.finished import Ledgers
from medvl_jobs.prep.split import SIDES

SHOWN = 6
"""Rows of one fault."""

_COLUMNS = ["caption", "width", "height", "green_box", "says_nothing"]


@dataclass(frozen=True)
class Pair:
    """A row, and another one whose picture is the same or nearly."""

    row: int
    twin: int
    bits: int
    """In which their perceptual hashes differ."""
    sides: tuple[str, str]
    """Where each of the two is now: ``train``, ``val`` or ``left out``."""


@dataclass(frozen=True)
class Scan:
    """What the pass leaves. Rows are numbered through all parts, in the order of the source."""

    parts: Sequence[str]
    starts: np.ndarray
    """[P] number of the first row of each part."""
    sample: np.ndarray
    """[S] rows, see `captions.drawn`."""
    captions: Sequence[str]
    """[S] of the sample."""
    rows: Mapping[str, Sequence[int]]
    """By fault, or by what they are the most of."""

    def place(self, row: int) -> tuple[str, int]:
        """The part of a row, and its number in there."""
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        return self.parts[part], row - int(self.starts[part])


def scan(ledgers: Ledgers, decision: Decision) -> Scan:
    """Look at every row that is on a side, once."""
    lots, kept = lots_of(decision), decision.assignment.left_out == KEEP
    sample = drawn(lots, kept)
    found: dict[str, list[tuple[int, int, int]]] = {}
    captions: list[str] = []
    parts, starts, start = [], [], 0
    for part, table in ledgers.tables(_COLUMNS):
        parts.append(part)
        starts.append(start)
        stop = start + table.num_rows
        own = sample[np.searchsorted(sample, start) : np.searchsorted(sample, stop)] - start
        captions += table["caption"].take(pa.array(own)).to_pylist()
        for name, (mask, rank) in _ranks(table, kept[start:stop]).items():
            rows = np.flatnonzero(mask)
            first = rows[np.lexsort((lots[start:stop][rows], rank[rows]))[:SHOWN]]
            new = [(int(rank[row]), int(lots[start + row]), start + int(row)) for row in first]
            found[name] = sorted(found.get(name, []) + new)[:SHOWN]
        start = stop
    chosen = {name: [row for _, _, row in ranked] for name, ranked in found.items()}
    return Scan(parts, np.array(starts), sample, captions, chosen)


def lots_of(decision: Decision) -> np.ndarray:
    """[N] uint64: each id's digest."""
    return decision.rows.ids


def _ranks(table: pa.Table, kept: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name: which rows are meant, and their rank, the worst first."""
    length = pc.utf8_length(table["caption"]).to_numpy().astype(np.int64)
    area = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
    nothing = table["says_nothing"].to_numpy()
    alike = np.zeros(len(kept), np.int64)
    return {
        "green_box": (kept & table["green_box"].to_numpy(), alike),
        "says_nothing": (kept & nothing, alike),
        "shortest": (kept & ~nothing, length),
        "longest": (kept & ~nothing, -length),
        "smallest": (kept, area),
    }


def in_other_languages(found: Scan, languages: Sequence[str], expected: str) -> dict[int, str]:
    """The rows of the sample with their language where that is neither ``expected`` nor unknown."""
    return {
        int(row): language
        for row, language in zip(found.sample, languages, strict=True)
        if language not in (expected, UNKNOWN_LANGUAGE)
    }


def exact_pairs(decision: Decision) -> list[Pair]:
    """Rows whose picture has come before, each with the first that has it; those that were left out come first."""
    left_out = decision.assignment.left_out
    alive = np.flatnonzero(left_out != DUPLICATE_ID)
    again, origin = repeats(decision.rows.pixels[alive])
    again, origin = alive[again], alive[origin]
    order = np.lexsort((lots_of(decision)[again], left_out[again] != EXACT))[:SHOWN]
    return [_pair(decision, int(again[each]), int(origin[each]), 0) for each in order]


def near_pairs_shown(decision: Decision, distance: int) -> list[Pair]:
    """Rows of train that are like a picture of val, each with the one that it is most like.

    With the policy ``move`` there are none any more.
    """
    rows, assignment = decision.rows, decision.assignment
    leaks = near_leaks(rows, assignment.is_val, assignment.left_out, distance)
    val = np.flatnonzero(assignment.is_val & (assignment.left_out == KEEP))
    pairs = []
    for row in leaks[np.argsort(lots_of(decision)[leaks], kind="stable")[:SHOWN]]:
        place, bits = nearest(rows.phashes[row], rows.phashes[val])
        pairs.append(_pair(decision, int(row), int(val[place]), bits))
    return pairs


def _pair(decision: Decision, row: int, twin: int, bits: int) -> Pair:
    is_val, left_out = decision.assignment.is_val, decision.assignment.left_out
    first, second = ("left out" if left_out[each] != KEEP else SIDES[int(is_val[each])] for each in (row, twin))
    return Pair(row, twin, bits, (first, second))


def repeated_ids(decision: Decision) -> list[int]:
    """Rows whose id another file or part has had before."""
    return [int(row) for row in np.flatnonzero(decision.assignment.left_out == DUPLICATE_ID)[:SHOWN]]
