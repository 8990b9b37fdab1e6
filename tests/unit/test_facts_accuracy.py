"""How well the reader reads, on sentences that a person labelled; ``docs/facts.md`` states it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from facts_data import FIELDS, accuracy, claims_f1, sentences

PAGE = Path(__file__).parents[2] / "docs" / "facts.md"
FLOORS = {
    **{"all": 70, "modality": 90, "plane": 90, "body_part": 90, "structures": 90, "finding": 90},
    **{"region": 75, "position": 70, "area": 90, "hedged": 65},
}
"""Percent of the held-out sentences: a few below what is measured, where one sentence is 3 to 11 percent."""


def percent(right: int, count: int) -> float:
    return 100 * right / count


@pytest.mark.parametrize("field", FLOORS)
def test_the_reader_is_above_its_floor_on_what_it_has_not_seen(field: str) -> None:
    assert percent(*accuracy(sentences("held_out"))[field]) >= FLOORS[field]


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_neither_language_is_read_worse_than_the_floor(language: str) -> None:
    held_out = sentences("held_out", (language,))
    assert percent(*accuracy(held_out)["all"]) >= FLOORS["all"]
    assert claims_f1(held_out) >= 90


def test_there_are_enough_sentences_and_none_twice() -> None:
    everything = [each for name in ("rules", "learnt", "held_out") for each in sentences(name)]
    assert len({each.text for each in everything}) == len(everything) >= 150
    assert sum(len(sentences(name, ("chinese",))) for name in ("rules", "learnt", "held_out")) >= 40


def test_the_page_states_what_is_measured() -> None:
    rows = {
        cells[0]: cells[1:]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4 and re.search(r"\d", line)
    }
    sets = ("rules", "learnt", "held_out")
    measured = [accuracy(sentences(name)) for name in sets]
    for field in ("all", *FIELDS):
        assert rows[field.replace("_", " ")] == ["{} of {}".format(*each[field]) for each in measured]
    assert rows["claims, F1"] == [f"{claims_f1(sentences(name)):.1f} %" for name in sets]
