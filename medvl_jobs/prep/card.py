"""The dataset card: what came in, what became of it, and what the rows are like. Counted on the way; no row is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from medvl_jobs.prep import duplicates
from medvl_jobs.prep.duplicates import Assignment
from medvl_jobs.prep.rows import Reason
from medvl_jobs.prep.split import SIDES
from medvl_jobs.settings.prep import PrepSettings

Name = TypeVar("Name", bound=str)

SIZE_EDGES = (128, 256, 512, 1024, 2048)
"""Upper ends of the histogram's bins for an image's longer side, in pixels."""
WORD_EDGES = (5, 10, 20, 40, 60, 80, 100, 150, 200)
"""Upper ends of the histogram's bins for a caption's words."""
REPEATED = 10
"""A wording that so many rows share says little of each one's image."""


@dataclass
class Tally:
    """The running counts of one prep. Memory grows by 8 bytes a row."""

    refused: Counter[str]
    """Rows in the quarantine, by reason."""
    assignment: Assignment
    group_sources: Counter[str] = field(default_factory=Counter)
    came_as: Counter[str] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    kept_images: int = 0
    """Images whose bytes are the source's own."""
    green_boxes: int = 0
    with_facts: int = 0
    says_nothing: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    longer_sides: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    caption_characters: Counter[int] = field(default_factory=Counter)
    caption_words: Counter[int] = field(default_factory=Counter)
    _wordings: list[np.ndarray] = field(default_factory=list)

    def add(self, ledger: pa.Table, is_val: np.ndarray, left_out: np.ndarray) -> None:
        """Count the rows of one part, as `contracts.records.LEDGER` has them, and where each has gone."""
        kept = left_out == duplicates.KEEP
        self.rows["val"] += int(np.count_nonzero(kept & is_val))
        self.rows["train"] += int(np.count_nonzero(kept & ~is_val))
        for code, reason in REASONS.items():
            if rows := int(np.count_nonzero(left_out == code)):
                self.left_out[reason.value] += rows
        # What the rows are like is said of those that are on a side.
        table = ledger.filter(pa.array(kept))
        self.group_sources.update(table["group_source"].to_pylist())
        self.came_as.update(table["came_as"].to_pylist())
        conversions = table["conversions"].to_pylist()
        self.conversions.update(name for names in conversions for name in names)
        self.kept_images += sum(not names for names in conversions)
        self.green_boxes += int(np.count_nonzero(table["green_box"].to_numpy()))
        self.with_facts += int(table.num_rows - table["facts"].null_count)
        widths, heights = table["width"].to_numpy(), table["height"].to_numpy()
        self.longer_sides.update(np.maximum(widths, heights).tolist())
        self.shorter_sides.update(np.minimum(widths, heights).tolist())
        self._add_captions(table)

    def _add_captions(self, table: pa.Table) -> None:
        captions = table["caption"].to_pylist()
        nothing = table["says_nothing"].to_numpy()
        self.says_nothing += int(np.count_nonzero(nothing))
        self.caption_characters.update(map(len, captions))
        self.caption_words.update(len(caption.split()) for caption in captions)
        self._wordings.append(table["wording"].to_numpy()[~nothing])

    @property
    def accepted(self) -> int:
        """Rows on either side of the split."""
        return self.rows.total()

    @property
    def read(self) -> int:
        """All rows."""
        return self.accepted + self.refused.total() + self.left_out.total()

    def refusals(self) -> Counter[str]:
        """Rows that cannot be used, by reason: the quarantine's, and those whose id has come before."""
        return self.refused + Counter({Reason.DUPLICATE_ID.value: self.left_out[Reason.DUPLICATE_ID.value]})

    def repeated_wordings(self) -> tuple[int, int]:
        """Wordings that `REPEATED` rows or more share, and those rows. They are in no order that depends on a run."""
        _, rows = np.unique(np.concatenate([np.empty(0, np.uint64), *self._wordings]), return_counts=True)
        often = rows[rows >= REPEATED]
        return len(often), int(often.sum())

    def counts(self) -> dict[str, int]:
        """The card's first figures."""
        return {
            "read": self.read,
            "accepted": self.accepted,
            "refused": self.refusals().total(),
            "left_out": self.left_out.total() - self.left_out[Reason.DUPLICATE_ID.value],
            **{f"{side}_rows": self.rows[side] for side in SIDES},
            **{f"{side}_groups": self.assignment.groups[side == "val"] for side in SIDES},
        }


REASONS = {
    duplicates.DUPLICATE_ID: Reason.DUPLICATE_ID,
    duplicates.EXACT: Reason.EXACT_DUPLICATE,
    duplicates.NEAR: Reason.NEAR_DUPLICATE,
}
"""What the codes of `duplicates.Assignment.left_out` stand for."""


def card(tally: Tally, prep: PrepSettings) -> dict[str, Any]:
    """The content of ``card.json``: the same for the same rows and settings, wherever and whenever it is made."""
    assignment, (repeated, repeated_rows) = tally.assignment, tally.repeated_wordings()
    counts = tally.counts()
    return {
        "rows": {name: counts[name] for name in ("read", "accepted", "refused", "left_out")},
        "refused": dict(by_count(tally.refusals())),
        "split": {
            "seed": prep.split_seed,
            "val_ratio": prep.val_ratio,
            **{side: {"rows": counts[f"{side}_rows"], "groups": counts[f"{side}_groups"]} for side in SIDES},
        },
        "group_source": {
            "rows": {source: tally.group_sources[source] for source in ("column", "pattern", "id")},
            "pattern": prep.group_pattern,
        },
        "duplicates": {
            "exact": {"policy": prep.duplicates.exact, **asdict(assignment.exact)},
            "near": {
                "policy": prep.duplicates.near,
                "distance_bits": prep.duplicates.near_distance,
                **asdict(assignment.near),
            },
        },
        "facts": {"rows": tally.with_facts},
        "images": {
            "came_as": dict(by_count(tally.came_as)),
            "kept_bytes": tally.kept_images,
            "converted": dict(by_count(tally.conversions)),
            "high_bit_depth": f"window {list(prep.image.window)}" if prep.image.window else "each image's own extremes",
            "max_pixels": prep.image.max_pixels,
            "resize_filter": prep.image.resize_filter,
            "green_box": tally.green_boxes,
            "longer_side_pixels": summary(tally.longer_sides, SIZE_EDGES),
            "shorter_side_pixels": summary(tally.shorter_sides, SIZE_EDGES),
        },
        "captions": {
            "says_nothing": tally.says_nothing,
            "repeated_wordings": repeated,
            "repeated_rows": repeated_rows,
            "characters": summary(tally.caption_characters),
            "words": summary(tally.caption_words, WORD_EDGES),
        },
    }


def by_count(counter: Counter[Name]) -> list[tuple[Name, int]]:
    """Most frequent first, ties by name: a counter's own order is that of first sight."""
    return sorted(((name, rows) for name, rows in counter.items() if rows), key=lambda item: (-item[1], item[0]))


def summary(values: Counter[int], edges: tuple[int, ...] = ()) -> dict[str, Any]:
    """Exact quantiles from counts per value, and a histogram if there are ``edges``; empty when there is no value."""
    if not values:
        return {}
    mean = sum(value * rows for value, rows in values.items()) / values.total()
    return {
        "min": min(values),
        "median": _quantile(values, 0.5),
        "mean": round(mean, 2),
        "p95": _quantile(values, 0.95),
        "max": max(values),
        **({"histogram": _histogram(values, edges)} if edges else {}),
    }


def _quantile(values: Counter[int], share: float) -> int:
    """The smallest value that at least ``share`` of all values do not exceed."""
    below = 0
    for value in sorted(values):
        below += values[value]
        if below >= share * values.total():
            return value
    raise ValueError("no values")


def _histogram(values: Counter[int], edges: tuple[int, ...]) -> dict[str, int]:
    bins = {**{f"<={edge}": 0 for edge in edges}, f">{edges[-1]}": 0}
    for value, rows in values.items():
        edge = next((edge for edge in edges if value <= edge), None)
        bins[f"<={edge}" if edge else f">{edges[-1]}"] += rows
    return bins
