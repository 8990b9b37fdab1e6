"""The same picture on both sides of the split: found, counted, and moved or dropped. Arrays in, arrays out.

A model that is asked about an image it was trained on is not being tested. The two faces of it: equal pixels, in files
that may differ, and nearly equal ones, where somebody has compressed or scaled a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from medvl_jobs.prep.split import val_tickets
from medvl_jobs.settings.prep import DuplicateSettings, Policy

HASH_BITS = 64
_PAIRS_AT_ONCE = 1 << 22
"""Candidates that are compared in one go: 170 MB."""

KEEP, DUPLICATE_ID, EXACT, NEAR = range(4)
"""Why a row is on neither side."""


@dataclass(frozen=True)
class Rows:
    """All accepted rows in the order of the source: N of them, 40 bytes each, 64-bit numbers all."""

    ids: np.ndarray
    """[N] digests, see `rows.short_digest`."""
    groups: np.ndarray
    """[N] digests."""
    tickets: np.ndarray
    """[N] what the group drew, see `split.ticket`."""
    pixels: np.ndarray
    """[N] the first 64 bits of the pixels' sha256."""
    phashes: np.ndarray
    """[N]"""


@dataclass(frozen=True)
class Found:
    """What was found of one kind of duplicate, and what came of it."""

    rows: int
    """Rows whose picture has come before, anywhere; of near ones, those of train that are like a picture of val."""
    across: int
    """Of these pictures, the distinct ones that were drawn to both sides; of near ones, the rows again."""
    moved: int = 0
    """Rows that are on the other side now."""
    dropped: int = 0
    """Rows that are left out."""


@dataclass(frozen=True)
class Assignment:
    """The split of all rows."""

    is_val: np.ndarray
    """[N] bool."""
    left_out: np.ndarray
    """[N] uint8: `KEEP`, or why the row is on neither side."""
    groups: dict[bool, int]
    """How many groups have rows on each side, by whether it is val."""
    exact: Found
    near: Found


def assign(rows: Rows, val_ratio: float, policy: DuplicateSettings) -> Assignment:
    """Put every row on a side, and leave out what has to be. The same rows in another order get the same sides."""
    state = _State.of(rows, val_ratio)
    # All moves before all drops: a row that is dropped for its copy in val must still have it there in the end.
    exact = _find_exact(rows, state, policy.exact)
    near = _find_near(rows, state, policy.near, policy.near_distance)
    if policy.exact == "drop":
        exact = replace(exact, dropped=state.leave_out(_exact_leaks(rows, state), EXACT))
    if policy.near == "drop":
        leaks = near_leaks(rows, state.is_val, state.left_out, policy.near_distance)
        near = replace(near, dropped=state.leave_out(leaks, NEAR))
    kept = state.left_out == KEEP
    counts = {side: len(np.unique(state.group[kept & (state.is_val == side)])) for side in (False, True)}
    return Assignment(state.is_val, state.left_out, counts, exact, near)


@dataclass
class _State:
    """The split while it is being decided."""

    group: np.ndarray
    """[N] int: number of the group, in the order of the digests, which no order of the rows changes."""
    cluster: np.ndarray
    """[G] int: the smallest number among the groups that must stay together."""
    ticket: np.ndarray
    """[G] uint64."""
    limit: np.uint64
    is_val: np.ndarray = field(init=False)
    left_out: np.ndarray = field(init=False)

    @classmethod
    def of(cls, rows: Rows, val_ratio: float) -> _State:
        _, first, group = np.unique(rows.groups, return_index=True, return_inverse=True)
        state = cls(group, np.arange(len(first)), rows.tickets[first], np.uint64(val_tickets(val_ratio)))
        state.is_val = state.sides()
        state.left_out = np.full(len(group), KEEP, np.uint8)
        state.left_out[~_is_first(rows.ids)] = DUPLICATE_ID
        return state

    def sides(self) -> np.ndarray:
        return (self.ticket < self.limit)[self.cluster[self.group]]

    def leave_out(self, places: np.ndarray, reason: int) -> int:
        """Put rows on neither side; returns how many."""
        self.left_out[places] = reason
        return len(places)

    def unite(self, left: np.ndarray, right: np.ndarray) -> int:
        """Let the groups of each pair stay together; returns how many rows changed their side for it."""
        left, right = self.cluster[left], self.cluster[right]
        smallest = np.arange(len(self.cluster))
        while (smallest[left] != smallest[right]).any():
            least = np.minimum(smallest[left], smallest[right])
            np.minimum.at(smallest, smallest[left], least)
            np.minimum.at(smallest, smallest[right], least)
            smallest = smallest[smallest]  # what follows a chain goes half of the way at once
        self.cluster = smallest[self.cluster]
        before, self.is_val = self.is_val, self.sides()
        return int(np.count_nonzero((before != self.is_val) & (self.left_out == KEEP)))


def _find_exact(rows: Rows, state: _State, policy: Policy) -> Found:
    alive = np.flatnonzero(state.left_out == KEEP)
    _, picture = np.unique(rows.pixels[alive], return_inverse=True)
    count = len(alive) - (int(picture.max()) + 1 if len(alive) else 0)
    across = len(np.unique(picture[_on_both(picture, state.is_val[alive])]))
    moved = 0
    if policy == "move":
        order = np.argsort(picture, kind="stable")
        same = np.flatnonzero(picture[order[1:]] == picture[order[:-1]])
        group = state.group[alive][order]
        moved = state.unite(group[same], group[same + 1]) if len(same) else 0
    return Found(count, across, moved)


def _exact_leaks(rows: Rows, state: _State) -> np.ndarray:
    """[L] places of the rows of train whose very pixels val has."""
    alive = np.flatnonzero(state.left_out == KEEP)
    _, picture = np.unique(rows.pixels[alive], return_inverse=True)
    is_val = state.is_val[alive]
    return alive[_on_both(picture, is_val) & ~is_val]


def _find_near(rows: Rows, state: _State, policy: Policy, distance: int) -> Found:
    leaks = len(near_leaks(rows, state.is_val, state.left_out, distance))
    moved = 0
    if policy == "move":
        alive = _compared(rows, state.is_val, state.left_out)
        moved = _unite_near(state, alive, rows.phashes[alive], distance)
    return Found(leaks, leaks, moved)


def near_leaks(rows: Rows, is_val: np.ndarray, left_out: np.ndarray, distance: int) -> np.ndarray:
    """[L] places of the rows of train that are like a picture of val, be they still there or left out for it."""
    alive = _compared(rows, is_val, left_out)
    hashes, on_val = rows.phashes[alive], is_val[alive]
    train, val = np.unique(hashes[~on_val]), np.unique(hashes[on_val])
    like = np.zeros(len(train), bool)
    for left, _ in near_pairs(train, val, distance):
        like[left] = True
    return alive[~on_val][like[np.searchsorted(train, hashes[~on_val])]] if len(train) else alive[:0]


def _compared(rows: Rows, is_val: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Places of the rows that are looked at: not those of train whose very pixels val has, and that `_exact` let be."""
    alive = np.flatnonzero((left_out == KEEP) | (left_out == NEAR))
    _, picture = np.unique(rows.pixels[alive], return_inverse=True)
    return alive[is_val[alive] | ~_on_both(picture, is_val[alive])]


def nearest(phash: np.uint64, phashes: np.ndarray) -> tuple[int, int]:
    """The place of the hash that is most like ``phash``, the first of several, and in how many bits it differs."""
    bits = np.bitwise_count(phashes ^ phash)
    place = int(bits.argmin())
    return place, int(bits[place])


def repeats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[R] places whose value has come before, and [R] the places where it came first."""
    _, first, number = np.unique(values, return_index=True, return_inverse=True)
    origin = first[number]
    again = np.flatnonzero(origin != np.arange(len(values)))
    return again, origin[again]


def _unite_near(state: _State, alive: np.ndarray, hashes: np.ndarray, distance: int) -> int:
    """All near pictures stay together, not only those across the split: else a move would make new pairs across."""
    unique, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    group = state.group[alive]
    left, right = [group], [group[first][number]]  # equal hashes
    for one, other in near_pairs(unique, unique, distance):
        left.append(group[first][one])
        right.append(group[first][other])
    return state.unite(np.concatenate(left), np.concatenate(right))


def near_pairs(left: np.ndarray, right: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places (one in ``left``, one in ``right``) whose hashes differ in at most ``distance`` bits.

    They come in portions, and a pair may come more than once. Of ``distance`` + 1 bands of bits, at least one is equal
    in such a pair, so only hashes that share a band are compared (multi-index hashing, Norouzi et al., CVPR 2012).
    """
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high)) - (1 << int(low)))
        bands = right & mask
        order = np.argsort(bands, kind="stable")
        bands = bands[order]
        start = np.searchsorted(bands, left & mask, "left")
        count = np.searchsorted(bands, left & mask, "right") - start
        for begin, end in _portions(count):
            one = np.repeat(np.arange(begin, end), count[begin:end])
            skipped = np.cumsum(count[begin:end]) - count[begin:end]
            place = np.arange(len(one)) - np.repeat(skipped - start[begin:end], count[begin:end])
            other = order[place]
            close = np.bitwise_count(left[one] ^ right[other]) <= distance
            yield one[close], other[close]


def _portions(count: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of places with about `_PAIRS_AT_ONCE` candidates; one place with more is a range of its own."""
    total = np.cumsum(count)
    begin = 0
    while begin < len(count):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _PAIRS_AT_ONCE, "right")))
        yield begin, end
        begin = end


def _is_first(values: np.ndarray) -> np.ndarray:
    """Whether each value has not come before."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _on_both(picture: np.ndarray, is_val: np.ndarray) -> np.ndarray:
    """Whether each row's picture has rows on both sides."""
    size = int(picture.max()) + 1 if len(picture) else 0
    train = np.bincount(picture[~is_val], minlength=size) > 0
    val = np.bincount(picture[is_val], minlength=size) > 0
    return (train & val)[picture]
