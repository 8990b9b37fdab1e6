"""Which side of the split a row is on: a pure function of its group, the seed and the ratio.

A hash instead of a draw, for three reasons: the same row is on the same side however many rows come before it, adding
data later moves nothing that is there, and shards can be split by machines that know nothing of each other.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.rows import GroupSource

Side = Literal["train", "val"]
SIDES: tuple[Side, ...] = ("train", "val")


TICKETS = 2**64
"""How many there are."""


def ticket(group: str, seed: int) -> int:
    """The number that a group draws, from 0 to `TICKETS`."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big")


def val_tickets(ratio: float) -> int:
    """Tickets below this one are val's, a share ``ratio`` of all; the others are train's.

    The share holds for many groups; of ten groups at 0.2, none at all is in ``val`` one time in ten.
    """
    return int(ratio * TICKETS)


@dataclass(frozen=True)
class Grouping:
    """How the group of a row is found: its own column, else a pattern on the id, else every row by itself."""

    pattern: re.Pattern[str] | None = None

    @classmethod
    def from_setting(cls, group_pattern: str | None) -> Grouping:
        """Compile ``prep.group_pattern``. Raises `SettingsError`."""
        if group_pattern is None:
            return cls()
        remedy = r"write a regular expression with one group in parentheses, like prep.group_pattern='^(.+)_\d+$'"
        where = f"prep.group_pattern={group_pattern}"
        try:
            pattern = re.compile(group_pattern)
        except re.error as error:
            raise SettingsError(f"the pattern does not compile: {error}", where=where, remedy=remedy) from error
        if not pattern.groups:
            raise SettingsError("the pattern captures nothing", where=where, remedy=remedy)
        return cls(pattern)

    def of(self, column: str | None, example_id: str) -> tuple[str, GroupSource]:
        """The group of a row and where it was found; ``column`` is the cell of the group column, if any."""
        if column is not None:
            return column, "column"
        if self.pattern is not None and (found := self.pattern.search(example_id)) and found[1]:
            return found[1], "pattern"
        return example_id, "id"
