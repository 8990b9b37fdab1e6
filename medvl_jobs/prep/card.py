"""The dataset card: what came in, what became of it, and what the rows are like. Counted on the way; no row is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeVar

from medvl_jobs.prep.rows import Example, Reason, Refusal, short_digest
from medvl_jobs.prep.split import SIDES, Side
from medvl_jobs.settings.prep import PrepSettings

Name = TypeVar("Name", bound=str)

SIZE_EDGES = (128, 256, 512, 1024, 2048)
"""Upper ends of the histogram's bins for an image's longer side, in pixels."""


@dataclass
class Tally:
    """The running counts of one prep. Memory grows with the groups, about 100 bytes each, not with the rows."""

    refused: Counter[Reason] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    kept_images: int = 0
    """Images whose bytes are the source's own."""
    with_facts: int = 0
    group_sources: Counter[str] = field(default_factory=Counter)
    rows: Counter[Side] = field(default_factory=Counter)
    groups: dict[Side, set[bytes]] = field(default_factory=lambda: {side: set() for side in SIDES})
    longer_sides: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    caption_characters: Counter[int] = field(default_factory=Counter)
    caption_words: Counter[int] = field(default_factory=Counter)

    @property
    def accepted(self) -> int:
        """Rows on either side of the split."""
        return self.rows.total()

    @property
    def read(self) -> int:
        """All rows."""
        return self.accepted + self.refused.total()

    @property
    def bad_share(self) -> float:
        """Refused of all rows, from 0 to 1."""
        return self.refused.total() / self.read if self.read else 0.0

    def refuse(self, refusal: Refusal) -> None:
        """Count a refused row."""
        self.refused[refusal.reason] += 1

    def accept(self, example: Example, side: Side) -> None:
        """Count an accepted row."""
        self.rows[side] += 1
        self.groups[side].add(short_digest(example.group))
        self.group_sources[example.group_source] += 1
        self.conversions.update(example.conversions)
        self.kept_images += not example.conversions
        self.with_facts += example.facts is not None
        self.longer_sides[max(example.width, example.height)] += 1
        self.shorter_sides[min(example.width, example.height)] += 1
        self.caption_characters[len(example.caption)] += 1
        self.caption_words[len(example.caption.split())] += 1

    def counts(self) -> dict[str, int]:
        """The figures that the manifest repeats."""
        return {
            "read": self.read,
            "accepted": self.accepted,
            "refused": self.refused.total(),
            **{f"{side}_rows": self.rows[side] for side in SIDES},
            **{f"{side}_groups": len(self.groups[side]) for side in SIDES},
        }

    def top_reasons(self, count: int = 3) -> str:
        """``caption_empty: 7, unsafe_id: 2``."""
        return ", ".join(f"{reason.value}: {rows}" for reason, rows in _by_count(self.refused)[:count])


def card(tally: Tally, prep: PrepSettings) -> dict[str, Any]:
    """The content of ``card.json``: the same for the same rows and settings, wherever and whenever it is made."""
    return {
        "rows": {"read": tally.read, "accepted": tally.accepted, "refused": tally.refused.total()},
        "refused": {reason.value: rows for reason, rows in _by_count(tally.refused)},
        "split": {
            "seed": prep.split_seed,
            "val_ratio": prep.val_ratio,
            **{side: {"rows": tally.rows[side], "groups": len(tally.groups[side])} for side in SIDES},
        },
        "group_source": {
            "rows": {source: tally.group_sources[source] for source in ("column", "pattern", "id")},
            "pattern": prep.group_pattern,
            "pattern_missed_rows": tally.group_sources["id"] if prep.group_pattern else 0,
        },
        "facts": {"rows": tally.with_facts},
        "images": {
            "kept_bytes": tally.kept_images,
            "converted": dict(_by_count(tally.conversions)),
            "longer_side_pixels": {**_summary(tally.longer_sides), "histogram": _histogram(tally.longer_sides)},
            "shorter_side_pixels": _summary(tally.shorter_sides),
        },
        "captions": {"characters": _summary(tally.caption_characters), "words": _summary(tally.caption_words)},
    }


def _by_count(counter: Counter[Name]) -> list[tuple[Name, int]]:
    """Most frequent first, ties by name: a counter's own order is that of first sight."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _summary(values: Counter[int]) -> dict[str, float]:
    """Exact quantiles from counts per value; empty when there is no value."""
    if not values:
        return {}
    mean = sum(value * rows for value, rows in values.items()) / values.total()
    return {
        "min": min(values),
        "median": _quantile(values, 0.5),
        "mean": round(mean, 2),
        "p95": _quantile(values, 0.95),
        "max": max(values),
    }


def _quantile(values: Counter[int], share: float) -> int:
    """The smallest value that at least ``share`` of all values do not exceed."""
    below = 0
    for value in sorted(values):
        below += values[value]
        if below >= share * values.total():
            return value
    raise ValueError("no values")


def _histogram(values: Counter[int]) -> dict[str, int]:
    bins = {**{f"<={edge}": 0 for edge in SIZE_EDGES}, f">{SIZE_EDGES[-1]}": 0}
    for value, rows in values.items():
        edge = next((edge for edge in SIZE_EDGES if value <= edge), None)
        bins[f"<={edge}" if edge else f">{SIZE_EDGES[-1]}"] += rows
    return bins
