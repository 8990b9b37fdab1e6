"""What a dataset must not have too much of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medvl_jobs.errors import DataError
from medvl_jobs.prep.split import SIDES
from medvl_jobs.settings.prep import PrepSettings


@dataclass(frozen=True)
class Gate:
    """A share of rows and its limit."""

    name: str
    """The setting: ``refused`` of ``prep.gates.refused``."""
    what: str
    """``rows cannot be used``: after "3 of 60"."""
    rows: int
    of: int
    limit: float | None

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.rows / self.of if self.of else 0.0

    @property
    def fails(self) -> bool:
        """Whether the share is above its limit."""
        return self.limit is not None and self.share > self.limit


def gates(card: dict[str, Any], prep: PrepSettings) -> list[Gate]:
    """All gates that the card has the figures for, passed or failed."""
    read, accepted = card["rows"]["read"], card["rows"]["accepted"]
    captions, limits = card["captions"], prep.gates
    boxes, exact = card["images"]["green_box"], card["duplicates"]["exact"]["rows"]
    found = [
        Gate("refused", "rows cannot be used", card["rows"]["refused"], read, limits.refused),
        Gate("green_box", "images have a green box drawn on them", boxes, accepted, limits.green_box),
        Gate("duplicate", "images have come before, pixel by pixel", exact, accepted, limits.duplicate),
        Gate("boilerplate", "captions say nothing of their image", captions["says_nothing"], accepted, limits.boilerplate),
    ]
    if "languages" in captions:
        asked = captions["languages"]["rows"]
        others = asked - captions["languages"]["found"].get(prep.language, 0)
        what = f"captions are not in the language '{prep.language}'"
        found.append(Gate("other_language", what, others, asked, limits.other_language))
    return found


def require_usable(card: dict[str, Any], prep: PrepSettings, where: str) -> None:
    """Raises `DataError` when the dataset should not be trained on. ``where``: address of the card's folder."""
    if not card["rows"]["read"]:
        raise DataError("the source has no rows", where=prep.source, remedy="point prep.source to other files")
    for gate in gates(card, prep):
        if gate.fails:
            why = f": {_reasons(card)}" if gate.name == "refused" else ""
            remedy = f"correct the source, or raise prep.gates.{gate.name} above its {gate.limit}"
            if gate.name == "refused":
                remedy = f"read {where}/parts/*/quarantine.parquet (reason, detail and the original row): {remedy}"
            what = f"{gate.rows} of {gate.of} {gate.what} ({gate.share:.1%}){why}"
            raise DataError(what, where=f"{where}/card.json", remedy=remedy)
    for side in SIDES:
        if not card["split"][side]["rows"]:
            groups = sum(card["split"][each]["groups"] for each in SIDES)
            what = f"the {side} split is empty: {groups} groups at prep.val_ratio={prep.val_ratio}"
            remedy = "bring more groups (see prep.columns.group), or set another prep.val_ratio or prep.split_seed"
            raise DataError(what, where=f"{where}/card.json", remedy=remedy)


def _reasons(card: dict[str, Any], count: int = 3) -> str:
    """``caption_empty: 7, unsafe_id: 2``; the card has the most frequent first."""
    return ", ".join(f"{reason}: {rows}" for reason, rows in list(card["refused"].items())[:count])
