"""Dividing the examples: by modality, body part and length of the reference. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medvl_jobs.page.words import quantity
from medvl_jobs.report.inputs import Example

MOST_PARTS = 8
"""Of a property with more values the rare ones are taken together."""
OTHERS = "others"
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


@dataclass(frozen=True)
class Division:
    """The names of the parts, and which part each example is in."""

    by: Literal["modality", "body part", "length"]
    names: tuple[str, ...]
    """In the order in which they are shown."""
    part_of: dict[str, str]
    """Example id -> name."""


def divisions(examples: Sequence[Example]) -> list[Division]:
    """Every division that divides: a single modality is all examples again."""
    made = [
        _by_frequency("modality", examples, [example.modality for example in examples]),
        _by_frequency("body part", examples, [example.body_part for example in examples]),
        _by_length(examples),
    ]
    return [each for each in made if len(each.names) > 1]


def _by_frequency(by: Literal["modality", "body part"], examples: Sequence[Example], values: Sequence[str]) -> Division:
    counts = Counter(values)
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    kept = ordered if len(ordered) <= MOST_PARTS else ordered[: MOST_PARTS - 1]
    part_of = {e.example_id: value if value in kept else OTHERS for e, value in zip(examples, values, strict=True)}
    return Division(by, (*kept, *([OTHERS] if len(kept) < len(ordered) else [])), part_of)


def _by_length(examples: Sequence[Example]) -> Division:
    """Thirds by the words of the reference; where many are equal there are fewer parts."""
    lengths = np.array([words(example.caption) for example in examples])
    ends = sorted({int(end) for end in np.quantile(lengths, (1 / 3, 2 / 3), method="lower")} - {int(lengths.max())})
    starts = [int(lengths.min()), *(end + 1 for end in ends)]
    spans = zip(starts, [*ends, int(lengths.max())], strict=True)
    names = [f"{start} to {end} words" if start < end else quantity(start, "word") for start, end in spans]
    part = np.searchsorted(ends, lengths)
    return Division("length", tuple(names), {e.example_id: names[p] for e, p in zip(examples, part, strict=True)})


def words(text: str) -> int:
    """Words, where a Chinese character is one."""
    return len(_WORD.findall(text))
