"""From finished parts to a dataset: duplicates, the split, the card. No image is read again, only the ledgers are.

They are read twice, once to decide and once to write. Memory grows with the digests, about 130 bytes a row; the texts
pass through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from medvl_jobs.contracts import layout, records
from medvl_jobs.prep import duplicates
from medvl_jobs.prep.card import REASONS, Tally, card
from medvl_jobs.prep.duplicates import Assignment, Rows, assign
from medvl_jobs.prep.export import Conversations
from medvl_jobs.prep.finished import Ledgers
from medvl_jobs.prep.rows import Reason
from medvl_jobs.prep.split import SIDES, Side
from medvl_jobs.prep.write import TableFile
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.publish import Publication

WITHOUT_CAPTION = (
    Reason.UNMATCHED_IMAGE,
    Reason.AMBIGUOUS_NAME,
    Reason.UNREADABLE_ROWS,
    Reason.UNSAFE_PATH,
    Reason.OVERSIZED_FILE,
)
"""Reasons for which a file in an archive was refused before its caption was looked at."""


@dataclass(frozen=True)
class Decision:
    """What has become of every accepted row, and the counts of it."""

    rows: Rows
    assignment: Assignment
    card: dict[str, Any]


def decide(ledgers: Ledgers, settings: RunSettings, outputs: Outputs | None = None) -> Decision:
    """Put every row on a side, or leave it out. The sides' lists go to ``outputs``."""
    decisive = ledgers.rows()
    assignment = assign(decisive, settings.prep.val_ratio, settings.prep.duplicates)
    tally = Tally(refused=ledgers.refused(), assignment=assignment)
    start = 0
    for part, ledger in ledgers.tables():
        rows = slice(start, start + ledger.num_rows)
        tally.add(ledger, assignment.is_val[rows], assignment.left_out[rows])
        if outputs:
            outputs.add(part, ledger, assignment.is_val[rows], assignment.left_out[rows])
        start = rows.stop
    made = card(tally, settings.prep)
    if (apart := ledgers.captions_apart()) is not None:
        without = sum(tally.refused[reason.value] for reason in WITHOUT_CAPTION)
        made["captions_apart"] = {**apart, "images": tally.read - without}
    return Decision(decisive, assignment, made)


class Outputs:
    """The lists of the dataset, on disk until they are published."""

    def __init__(self, scratch: Path, settings: RunSettings) -> None:
        self._sides = {name: TableFile(scratch / layout.split_file(name), records.SPLIT) for name in SIDES}
        self._left_out = TableFile(scratch / layout.LEFT_OUT, records.LEFT_OUT)
        self._conversations = None
        if settings.prep.llamafactory_export:
            self._conversations = Conversations(scratch, settings.prompt)

    def add(self, part: str, ledger: pa.Table, is_val: np.ndarray, left_out: np.ndarray) -> None:
        """Sort the rows of one part onto the sides."""
        kept = left_out == duplicates.KEEP
        masks: dict[Side, np.ndarray] = {"train": kept & ~is_val, "val": kept & is_val}
        for side, mask in masks.items():
            self._sides[side].write(_places(part, ledger, mask))
        reasons = pa.array([REASONS[code].value for code in left_out[~kept].tolist()], pa.string())
        self._left_out.write(_places(part, ledger, ~kept).append_column("reason", reasons))
        if self._conversations:
            for side, mask in masks.items():
                chosen = ledger.select(["caption", "file_name"]).filter(pa.array(mask)).to_pylist()
                for row in chosen:
                    self._conversations.add(row["caption"], f"{part}/{row['file_name']}", side)

    def publish(self, publication: Publication, card: dict[str, Any]) -> None:
        """Store everything under the prefix that is not part of a part, but for the manifest."""
        for file in (*self._sides.values(), self._left_out):
            file.close()
            publication.upload(file.path, file.path.name, rows=file.rows)
        if self._conversations:
            self._conversations.publish(publication)
        publication.write_bytes(layout.CARD, (json.dumps(card, indent=2) + "\n").encode())


def _places(part: str, ledger: pa.Table, mask: np.ndarray) -> pa.Table:
    """Rows of `records.SPLIT` for those of the ledger that the mask chooses."""
    rows = np.flatnonzero(mask)
    names = pa.array([part] * len(rows), pa.string())
    return pa.table([ledger["example_id"].take(rows), names, pa.array(rows, pa.int32())], ["example_id", "part", "row"])
