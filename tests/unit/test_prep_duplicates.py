"""The same picture on both sides: every pair is found, and every policy keeps its promise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl_jobs.prep.duplicates import DUPLICATE_ID, EXACT, KEEP, NEAR, Assignment, Rows, assign, near_pairs
from medvl_jobs.prep.finished import digests
from medvl_jobs.prep.split import TICKETS
from medvl_jobs.settings.prep import DuplicateSettings

FAR = [0x0000FFFF0000FFFF, 0xFFFF0000FFFF0000, 0x00FF00FF00FF00FF, 0xFF00FF00FF00FF00, 0x0F0F0F0F0F0F0F0F]
"""Hashes that differ in 32 bits or more."""


def rows(
    groups: str, pictures: str, ids: Sequence[str] | None = None, val: str = "", phashes: Sequence[int] | None = None
) -> Rows:
    """A letter a row: its group, and its picture. Groups in ``val`` have drawn validation."""
    return Rows(
        ids=digests(list(ids or [str(n) for n in range(len(groups))])),
        groups=digests(list(groups)),
        tickets=np.array([0 if each in val else TICKETS - 1 for each in groups], np.uint64),
        pixels=digests(list(pictures)),
        phashes=np.array(phashes or [FAR[ord(each) % len(FAR)] for each in pictures], np.uint64),
    )


def sides(assignment: Assignment) -> str:
    """``t``, ``v``, or ``-`` for a row on neither side."""
    pairs = zip(assignment.is_val.tolist(), assignment.left_out.tolist(), strict=True)
    return "".join("-" if code != KEEP else "v" if is_val else "t" for is_val, code in pairs)


def split(given_rows: Rows, **policies: object) -> Assignment:
    return assign(given_rows, 0.5, DuplicateSettings(**policies))  # type: ignore[arg-type]


def test_groups_stay_whole_where_their_ticket_says() -> None:
    assert sides(split(rows("aabbc", "pqrst", val="b"))) == "ttvvt"


def test_the_first_row_of_an_id_stays() -> None:
    made = split(rows("aabb", "pqrs", ids=["1", "2", "1", "3"], val="b"))
    assert sides(made) == "tt-v"
    assert made.left_out[2] == DUPLICATE_ID


def test_move_brings_whole_groups_together() -> None:
    made = split(rows("aabbcc", "pqqrst", val="b"), exact="move")
    assert sides(made) in ("tttttt", "vvvvtt")
    assert made.exact.across == 1
    assert made.exact.rows == 1
    assert made.exact.moved == 2
    assert sum(made.groups.values()) == 3


def test_a_chain_of_groups_moves_as_one() -> None:
    made = split(rows("abcd", "ppqq", val="bd"), exact="move")
    assert len(set(sides(made)[:2])) == len(set(sides(made)[2:])) == 1
    chained = split(rows("abbcc", "ppqqr", val="b"), exact="move")
    assert len(set(sides(chained))) == 1


def test_drop_leaves_validation_as_it_is() -> None:
    made = split(rows("aabb", "pqqr", val="b"), exact="drop")
    assert sides(made) == "t-vv"
    assert made.left_out[1] == EXACT
    assert made.exact.dropped == 1


def test_keep_only_counts() -> None:
    made = split(rows("aabb", "pqqr", val="b"), exact="keep")
    assert sides(made) == "ttvv"
    assert (made.exact.rows, made.exact.across, made.exact.moved, made.exact.dropped) == (1, 1, 0, 0)
    assert made.near.rows == 0, "what the exact policy has let through is not caught as a near duplicate"


def test_a_picture_that_is_kept_on_both_sides_still_finds_its_copies() -> None:
    given_rows = rows("abc", "pqp", val="c", phashes=[FAR[0], FAR[0] ^ 3, FAR[0]])
    assert sides(split(given_rows, exact="keep", near="drop")) == "t-v"


def test_a_row_is_dropped_only_for_a_copy_that_val_keeps() -> None:
    """The copy's group is moved to train, by a picture that is like another one there."""
    given_rows = rows("abc", "ppq", val="b", phashes=[FAR[0], FAR[0], FAR[0] ^ 1])
    for exact in ("drop", "keep", "move"):
        made = split(given_rows, exact=exact, near="move")
        assert "-" not in sides(made)
        assert len(set(sides(made))) == 1


def test_a_duplicate_on_one_side_is_counted_and_stays() -> None:
    made = split(rows("aab", "ppq", val="b"), exact="drop")
    assert sides(made) == "ttv"
    assert (made.exact.rows, made.exact.across) == (1, 0)


@pytest.mark.parametrize(("bits", "found"), [(0, True), (0b11, True), (0b111, False)])
def test_near_duplicates_are_dropped_from_train(bits: int, found: bool) -> None:
    made = split(rows("aabb", "pqrs", val="b", phashes=[FAR[0], FAR[1], FAR[1] ^ bits, FAR[2]]), near="drop")
    assert sides(made) == ("t-vv" if found else "ttvv")
    assert made.near.rows == made.near.dropped == int(found)
    assert not found or made.left_out[1] == NEAR


def test_near_duplicates_can_be_moved_and_kept() -> None:
    given_rows = rows("aabbc", "pqrst", val="b", phashes=[FAR[0], FAR[1], FAR[1] ^ 3, FAR[2], FAR[3]])
    moved = split(given_rows, near="move")
    assert len(set(sides(moved)[:4])) == 1
    assert moved.near.moved == 2
    kept = split(given_rows, near="keep")
    assert sides(kept) == "ttvvt"
    assert (kept.near.rows, kept.near.moved, kept.near.dropped) == (1, 0, 0)


def test_nothing_is_nothing() -> None:
    made = split(rows("", ""))
    assert sides(made) == ""
    assert made.groups == {False: 0, True: 0}


LETTERS = st.text("abcdefgh", min_size=1, max_size=30)


@given(LETTERS, st.integers(0, 2**32), st.sampled_from(["move", "drop", "keep"]), st.sampled_from(["move", "drop"]))
def test_no_picture_and_no_group_is_ever_on_both_sides(groups: str, seed: int, exact: str, near: str) -> None:
    rng = np.random.default_rng(seed)
    pictures = "".join(rng.choice(list("pqrstuvw"), len(groups)))
    near_of = {each: FAR[0] ^ int(rng.choice([0, 0b11, 0b100, 0b111000])) for each in "pqrstuvw"}
    given_rows = rows(groups, pictures, val="bdf", phashes=[near_of[each] for each in pictures])
    made = split(given_rows, exact=exact, near=near)
    on = [(side, n) for n, side in enumerate(sides(made)) if side != "-"]
    shared = {pictures[n] for side, n in on if side == "t"} & {pictures[n] for side, n in on if side == "v"}
    assert exact == "keep" or not shared
    for (one, left), (other, right) in combinations(on, 2):
        if any(side == "t" and pictures[n] in shared for side, n in ((one, left), (other, right))):
            assert groups[left] != groups[right] or one == other
            continue
        same = groups[left] == groups[right] or pictures[left] == pictures[right]
        close = bin(near_of[pictures[left]] ^ near_of[pictures[right]]).count("1") <= 2
        assert one == other or not (same or close)


@given(LETTERS, st.randoms())
def test_the_order_of_the_rows_decides_nothing(groups: str, random: object) -> None:
    pictures = "".join("pqrst"[ord(each) * n % 5] for n, each in enumerate(groups))
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    ids = [str(n) for n in range(len(groups))]
    one = sides(split(rows(groups, pictures, ids=ids, val="bdf")))
    shuffled = ["".join(text[n] for n in order) for text in (groups, pictures)]
    other = sides(split(rows(shuffled[0], shuffled[1], ids=[ids[n] for n in order], val="bdf")))
    assert "".join(one[n] for n in order) == other


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4])
def test_near_pairs_are_those_that_comparing_all_finds(monkeypatch: pytest.MonkeyPatch, distance: int) -> None:
    monkeypatch.setattr("medvl_jobs.prep.duplicates._PAIRS_AT_ONCE", 50)
    rng = np.random.default_rng(distance)
    left = rng.integers(0, 2**63, 80).astype(np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, n % 11, replace=False)) for n in range(120)]
    right = np.array([int(left[n % 80]) ^ flip for n, flip in enumerate(flips)], np.uint64)
    found = {
        (int(one), int(other))
        for ones, others in near_pairs(left, right, distance)
        for one, other in zip(ones, others, strict=True)
    }
    bits = np.bitwise_count(left[:, None] ^ right[None, :])
    assert found == {(int(one), int(other)) for one, other in np.argwhere(bits <= distance)}
