"""Sentences that a person labelled with the facts they state, and how many of them the reader gets right."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvl_jobs.eval.reading import Reading, read

FOLDER = Path(__file__).parent / "fixtures" / "facts"
FIELDS = ("modality", "plane", "body_part", "structures", "region", "position", "area", "finding", "hedged")
Labels = dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """A sentence with what it states, field by field; ``None`` and ``[]`` where it states nothing."""

    text: str
    facts: Labels


@cache
def sentences(name: str, languages: tuple[str, ...] = ("english", "chinese")) -> tuple[Labelled, ...]:
    """``tests/fixtures/facts/<name>_<language>.jsonl``; the files leave out the fields that a sentence does not state.

    ``rules``: the rules were made with them. ``learnt``: they were held out once, the rules have learnt from them.
    ``held_out``: labelled when the rules were as they are. All labels are older than the first reading.

    ``scan``: modality, plane and body part, ``-`` for none. ``region``: structure, position and percent, ``""`` and 0
    for none. ``hedged``: the values of the claims that are made with a reservation.
    """
    files = [FOLDER / f"{name}_{language}.jsonl" for language in languages]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(_labelled(**json.loads(line)) for line in lines)


def _labelled(
    text: str,
    scan: str = "- - -",
    structures: tuple[str, ...] = (),
    region: tuple[str, str, float] = ("", "", 0),
    finding: str | None = None,
    hedged: tuple[str, ...] = (),
) -> Labelled:
    modality, plane, body_part = (None if word == "-" else word for word in scan.split())
    structure, position, area = region
    values = (modality, plane, body_part, sorted(structures), structure or None, position or None, area or None)
    return Labelled(text, dict(zip(FIELDS, (*values, finding, sorted(hedged)), strict=True)))


def stated(reading: Reading) -> Labels:
    """A reading in the form of the labels."""
    facts, region = reading.facts, reading.facts.region
    place = (region.structure or None, region.position or None, region.area_percent or None) if region else (None,) * 3
    hedged = sorted({str(each.claim.value) for each in reading.stated if each.hedged})
    values = (facts.modality, facts.plane, facts.body_part, sorted(facts.structures), *place, facts.finding, hedged)
    return dict(zip(FIELDS, values, strict=True))


def accuracy(examples: tuple[Labelled, ...]) -> dict[str, tuple[int, int]]:
    """How many sentences are read right, of how many: in ``all`` fields, and in each field where it matters.

    A field matters where the label or the reader has something to say: empty on both sides proves nothing.
    """
    right, count = Counter[str](), Counter[str]()
    for example in examples:
        found = stated(read(example.text))
        count["all"] += 1
        right["all"] += found == example.facts
        for field in FIELDS:
            if found[field] or example.facts[field]:
                count[field] += 1
                right[field] += found[field] == example.facts[field]
    return {field: (right[field], count[field]) for field in ("all", *FIELDS)}


def claims_f1(examples: tuple[Labelled, ...]) -> float:
    """F1 of all claims, each structure one, against the labelled ones, in percent."""
    shared = total = 0
    for example in examples:
        found, labelled = _claims(stated(read(example.text))), _claims(example.facts)
        shared += len(found & labelled)
        total += len(found) + len(labelled)
    return 100 * 2 * shared / total


def _claims(facts: Labels) -> set[tuple[str, Any]]:
    listed = {("structures", name) for name in facts["structures"]}
    return listed | {(f, v) for f, v in facts.items() if v and f not in ("structures", "hedged")}
