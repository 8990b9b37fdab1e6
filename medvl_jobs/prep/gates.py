"""What a dataset must not have too much of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medvl_jobs.errors import DataError
from medvl_jobs.prep.captions import UNKNOWN_LANGUAGE
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


@dataclass(frozen=True)
class Fault:
    """Why the dataset should not be trained on, and what to do about it."""

    what: str
    remedy: str


def gates(card: dict[str, Any], prep: PrepSettings) -> list[Gate]:
    """All gates that the card has the figures for, passed or failed."""
    read, accepted = card["rows"]["read"], card["rows"]["accepted"]
    captions, limits = card["captions"], prep.gates
    boxes, exact, nothing = card["images"]["green_box"], card["duplicates"]["exact"]["rows"], captions["says_nothing"]
    found = [
        Gate("refused", "rows cannot be used", card["rows"]["refused"], read, limits.refused),
        Gate("green_box", "images have a green box drawn on them", boxes, accepted, limits.green_box),
        Gate("duplicate", "images have come before, pixel by pixel", exact, accepted, limits.duplicate),
        Gate("boilerplate", "captions say nothing of their image", nothing, accepted, limits.boilerplate),
    ]
    if "languages" in captions:
        languages = captions["languages"]["found"]
        told = captions["languages"]["rows"] - languages.get(UNKNOWN_LANGUAGE, 0)
        what = f"captions are not in the language '{prep.language}'"
        others = told - languages.get(prep.language, 0)
        found.append(Gate("other_language", what, others, told, limits.other_language))
    return found


def faults(card: dict[str, Any], prep: PrepSettings, prepared: str) -> Iterator[Fault]:
    """What speaks against the dataset. ``prepared``: address of the folder of its parts."""
    if not card["rows"]["read"]:
        yield Fault(f"the source has no rows: {prep.source}", "point prep.source to other files")
        return
    if not card["rows"]["accepted"]:
        yield Fault(f"none of {card['rows']['read']} rows can be used: {_reasons(card)}", _read_why(prepared))
        return
    if failed := [gate for gate in gates(card, prep) if gate.fails]:
        yield _gates_fault(failed, card, prepared)
        return  # without those rows the sides are others
    for side in SIDES:
        if not card["split"][side]["rows"]:
            groups = sum(card["split"][each]["groups"] for each in SIDES)
            what = f"the {side} split is empty: {groups} groups at prep.val_ratio={prep.val_ratio}"
            remedy = "bring more groups (see prep.columns.group), or set another prep.val_ratio or prep.split_seed"
            if moved := sum(found["moved"] for found in card["duplicates"].values()):
                what += f"; {moved} rows were moved to be with their copies"
                remedy = f"set prep.duplicates.exact (or near) to drop or keep, or {remedy}"
            yield Fault(what, remedy)


def require_usable(card: dict[str, Any], prep: PrepSettings, *, where: str, prepared: str) -> None:
    """Raises `DataError` when the dataset should not be trained on. ``where`` somebody can read why; see `faults`."""
    found = list(faults(card, prep, prepared))
    if found:
        raise DataError("; ".join(fault.what for fault in found), where=where, remedy=found[0].remedy)


def _gates_fault(failed: Sequence[Gate], card: dict[str, Any], prepared: str) -> Fault:
    found = []
    for gate in failed:
        why = f": {_reasons(card)}" if gate.name == "refused" else ""
        found.append(f"{gate.rows} of {gate.of} {gate.what} ({gate.share:.1%}){why}")
    limits = " and ".join(f"prep.gates.{gate.name} above its {gate.limit}" for gate in failed)
    remedy = f"correct the source, or raise {limits}"
    if any(gate.name == "refused" for gate in failed):
        remedy = f"{_read_why(prepared)}; {remedy}"
    return Fault("; ".join(found), remedy)


def _read_why(prepared: str) -> str:
    rows = "parts/*/quarantine.parquet (reason, detail and the original row)"
    return f"read {prepared}/{rows} and, for ids that come twice, {prepared}/left_out.parquet"


def _reasons(card: dict[str, Any], count: int = 3) -> str:
    """``caption_empty: 7, unsafe_id: 2``; the card has the most frequent first."""
    return ", ".join(f"{reason}: {rows}" for reason, rows in list(card["refused"].items())[:count])
