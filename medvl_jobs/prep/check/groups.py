"""Rows of the dataset check, sorted by what is wrong with them; then those that are merely the most of something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvl_jobs.page.words import quantity
from medvl_jobs.prep.check.choice import (
    SHOWN,
    Pair,
    Scan,
    exact_pairs,
    in_other_languages,
    lots_of,
    near_pairs_shown,
    repeated_ids,
)
from medvl_jobs.prep.check.rows import RowReader, Shown
from medvl_jobs.prep.finalize import Decision
from medvl_jobs.prep.finished import FinishedPart
from medvl_jobs.prep.rows import Reason
from medvl_jobs.settings.prep import PrepSettings


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    lead: str
    rows: int | None
    """How many there are, shown or not; none where that means nothing."""
    shown: Sequence[Shown]


@dataclass(frozen=True)
class Choice:
    """The rows to show, before any is read."""

    others: Mapping[int, str]
    """Some rows in another language, and which."""
    other_rows: int
    """How many of the sample are."""
    near: Sequence[Pair]
    exact: Sequence[Pair]
    repeated: Sequence[int]

    @classmethod
    def of(cls, scan: Scan, decision: Decision, languages: Sequence[str], prep: PrepSettings) -> Choice:
        """Everything that the ledgers say."""
        others = in_other_languages(scan, languages, prep.language)
        first = dict(sorted(others.items(), key=lambda item: int(lots_of(decision)[item[0]]))[:SHOWN])
        near = near_pairs_shown(decision, prep.duplicates.near_distance)
        return cls(first, len(others), near, exact_pairs(decision), repeated_ids(decision))

    def rows(self, scan: Scan) -> set[int]:
        """All of them, each once."""
        paired = {row for pair in (*self.near, *self.exact) for row in (pair.row, pair.twin)}
        return {*self.others, *paired, *self.repeated, *(row for rows in scan.rows.values() for row in rows)}


def groups(
    scan: Scan, choice: Choice, reader: RowReader, parts: Sequence[FinishedPart], card: dict[str, Any]
) -> list[Group]:
    """All groups that have a row to show."""
    read = reader.examples(choice.rows(scan), scan)
    refused = reader.refused(parts)
    for row in choice.repeated:
        same = refused.setdefault(Reason.DUPLICATE_ID.value, [])
        same.append(replace(read[row], note="another part or file has had this id before"))
    found = [*_faults(scan, choice, read, card), _refusals(refused, card), *_extremes(scan, read, card)]
    return [group for group in found if group.shown]


def _faults(scan: Scan, choice: Choice, read: Mapping[int, Shown], card: dict[str, Any]) -> list[Group]:
    near, exact = card["duplicates"]["near"], card["duplicates"]["exact"]
    languages = card["captions"]["languages"]
    return [
        Group(
            "A green box is drawn on the image",
            "It gives the region of interest away: a model learns to look for green.",
            card["images"]["green_box"],
            [read[row] for row in scan.rows.get("green_box", ())],
        ),
        Group(
            "The caption says nothing of the image",
            "Placeholders, and apologies of the model that was to write them.",
            card["captions"]["says_nothing"],
            [read[row] for row in scan.rows.get("says_nothing", ())],
        ),
        Group(
            "The caption is in another language",
            f"Told on {quantity(languages['rows'], 'caption')}; those too short to tell are left in peace.",
            choice.other_rows,
            [replace(read[row], note=language) for row, language in choice.others.items()],
        ),
        Group(
            "Nearly the same picture in train and in val",
            f"Perceptual hashes of 64 bits that differ in at most {near['distance_bits']}. "
            + ("The row of train is left out." if near["policy"] == "drop" else f"Policy: {near['policy']}."),
            near["rows"],
            [_paired(pair, read, f"{pair.bits} of 64 bits apart") for pair in choice.near],
        ),
        Group(
            "The same picture again, pixel by pixel",
            f"Beside the first row that has it. Policy across the split: {exact['policy']}.",
            exact["rows"],
            [_paired(pair, read, "") for pair in choice.exact],
        ),
    ]


def _refusals(refused: Mapping[str, Sequence[Shown]], card: dict[str, Any]) -> Group:
    """Reason by reason in the order of the card: the most frequent first."""
    shown = [
        replace(row, note=f"{reason.replace('_', ' ')}: {row.note}")
        for reason in card["refused"]
        for row in refused.get(reason, [])[:SHOWN]
    ]
    return Group("Refused rows", "Of each reason the first ones of the source.", card["rows"]["refused"], shown)


def _extremes(scan: Scan, read: Mapping[int, Shown], card: dict[str, Any]) -> Iterator[Group]:
    """Nothing has been found wrong with these; but where something is, it is often here."""
    lead = "By characters, and without those that say nothing."
    for name, title in (("shortest", "The shortest captions"), ("longest", "The longest captions")):
        yield Group(title, lead, None, [read[row] for row in scan.rows.get(name, ())])
    sizes = [card["images"][side] for side in ("longer_side_pixels", "shorter_side_pixels")]
    if any(side and side["min"] < side["max"] for side in sizes):  # else no image is the smallest
        yield Group("The smallest images", "By pixels.", None, [read[row] for row in scan.rows.get("smallest", ())])


def _paired(pair: Pair, read: Mapping[int, Shown], note: str) -> Shown:
    here, there = pair.sides
    return replace(read[pair.row], about=here, note=note, twin=replace(read[pair.twin], about=there))
