"""The dataset check in words: what the table on the terminal and the page say alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from medvl_jobs.page.words import quantity
from medvl_jobs.prep.gates import Gate, faults, gates
from medvl_jobs.settings.prep import PrepSettings

NO_BREAK = "\N{NO-BREAK SPACE}"
"""A line must not end between a number and its sign."""


def percent(share: float) -> str:
    """``5 %``, ``6.7 %``: a limit of a twentieth is not 5.0."""
    return f"{100 * share:.1f}".removesuffix(".0") + f"{NO_BREAK}%"


def limit(gate: Gate) -> str:
    """What the share may be."""
    return "none" if gate.limit is None else percent(gate.limit)


def judgement(gate: Gate) -> str:
    """``passed``, ``FAILED``, or ``not judged`` where there is no limit."""
    if gate.limit is None:
        return "not judged"
    return "FAILED" if gate.fails else "passed"


def verdict(card: dict[str, Any], prep: PrepSettings) -> tuple[bool, str]:
    """Whether the dataset can be trained on, and that in a sentence."""
    failed = [gate for gate in gates(card, prep) if gate.fails]
    if card["rows"]["read"] and failed:
        found = "; ".join(
            f"{gate.rows:,} of {gate.of:,} {gate.what} ({percent(gate.share)}, limit {limit(gate)})" for gate in failed
        )
        names = ", ".join(gate.name for gate in failed)
        return False, f"Fails {quantity(len(failed), 'gate')} ({names}): {found}."
    if other := list(faults(card, prep, "")):
        return False, f"Cannot be trained on: {'; '.join(fault.what for fault in other)}."
    train, val = card["split"]["train"], card["split"]["val"]
    rows = f"{quantity(train['rows'], 'row')} in {quantity(train['groups'], 'group')} to train on"
    return True, f"Passes all gates: {rows}, {val['rows']:,} in {val['groups']:,} to validate."


def source_name(prep: PrepSettings) -> str:
    """The last part of where the source lies."""
    return PurePosixPath(prep.source.rstrip("/")).name or prep.source


def columns(card: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is read, the column that it is read from, and how many rows have it."""
    accepted = card["rows"]["accepted"]
    counts = {"group": card["group_source"]["rows"]["column"], "facts": card["facts"]["rows"]}
    for role, name in card["source"]["columns"].items():
        rows = counts.get(role, accepted)
        yield role, name, "in no row" if not rows else "in all rows" if rows == accepted else f"in {rows:,} rows"
