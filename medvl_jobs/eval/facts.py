"""Score a caption's claims against what is true of the image."""

from __future__ import annotations

from typing import NamedTuple

from medvl_jobs.contracts.facts import NORMAL, Facts, Region

AREA_POINTS = 2.5
"""An area is right within so many percent of the image …"""
AREA_SHARE = 0.25
"""… or within this share of the true area, whichever is more."""


class Claim(NamedTuple):
    """One thing that a caption says and that is right or wrong by itself."""

    field: str
    """``modality``, ``plane``, ``body_part``, ``structure``, ``region``, ``position``, ``area`` or ``finding``."""
    value: str | float


def claims(facts: Facts) -> tuple[Claim, ...]:
    """What is stated, claim by claim, each once."""
    region = facts.region or Region("", "", 0.0)
    stated: list[tuple[str, str | float | None]] = [
        ("modality", facts.modality),
        ("plane", facts.plane),
        ("body_part", facts.body_part),
        *(("structure", name) for name in facts.structures),
        ("region", region.structure),
        ("position", region.position),
        ("area", region.area_percent),
        ("finding", facts.finding),
    ]
    return tuple(dict.fromkeys(Claim(name, value) for name, value in stated if value))


def mark(claimed: Facts, truth: Facts) -> dict[Claim, bool]:
    """Each claim with whether it is right: it is stated in the truth, or is an area close enough to the true one."""
    stated = set(claims(truth))
    return {claim: claim in stated or _right_area(claim, truth) for claim in claims(claimed)}


def _right_area(claim: Claim, truth: Facts) -> bool:
    """|claimed - true| <= max(2.5 points, 25 % of the true area)."""
    if claim.field != "area" or truth.region is None or not truth.region.area_percent:
        return False
    true = truth.region.area_percent
    return abs(float(claim.value) - true) <= max(AREA_POINTS, AREA_SHARE * true)


def score_facts(claimed: Facts, truth: Facts) -> dict[str, float]:
    """Precision, recall and F1 of the claims, each field by itself, in percent; and contradictions, as counts.

    With C the claims made, T the claims of the truth and R those of C that `mark` finds right: ``facts_precision`` =
    |R| / |C|, ``facts_recall`` = |R| / |T|, ``facts_f1`` = 2 |R| / (|C| + |T|), the harmonic mean of the two.

    - Nothing claimed is 0, 0 and 0, never left out: a model must not gain by silence.
    - The world is closed: a claim about a field that the truth leaves open, such as a nodule in a brain, is wrong.
    - A ``fact_*`` is there only for a field that the truth states: 100 when right, 0 when wrong or missing;
      ``fact_structures`` is the F1 of the two sets.
    - ``contradiction_errors`` is the sum of the other ``*_errors``, see `contradictions`.
    - A truth that states nothing can judge nothing: the answer is ``{}``, whatever was claimed.
    """
    true = claims(truth)
    if not true:
        return {}
    marks = mark(claimed, truth)
    right = sum(marks.values())
    scores = {
        "facts_precision": 100 * right / len(marks) if marks else 0.0,
        "facts_recall": 100 * right / len(true),
        "facts_f1": 100 * 2 * right / (len(marks) + len(true)),
    }
    for name in dict.fromkeys(claim.field for claim in true):
        said = [is_right for claim, is_right in marks.items() if claim.field == name]
        count = len(said) + sum(claim.field == name for claim in true)
        if name == "structure":
            scores["fact_structures"] = 100 * 2 * sum(said) / count
        else:
            scores[f"fact_{name}"] = 100.0 * any(said)
    errors = {name: float(count) for name, count in contradictions(claimed, truth).items()}
    return {**scores, **errors, "contradiction_errors": sum(errors.values())}


# --- contradictions ----------------------------------------------------------------------------------------------


def contradictions(claimed: Facts, truth: Facts) -> dict[str, int]:
    """How often a claim cannot be true together with the truth, by kind; no claim counts under two of them.

    - ``laterality_errors``: structures on the wrong side, see `confused_sides`;
    - ``modality_errors``: another modality than the true one, 0 or 1;
    - ``hallucination_errors``: structures that the truth has on neither side, see `invented`;
    - ``negation_errors``: the true finding denied or the denied one claimed, 0 or 1, see `flipped`.
    """
    return {
        "laterality_errors": len(confused_sides(claimed, truth)),
        "modality_errors": int(bool(claimed.modality and truth.modality) and claimed.modality != truth.modality),
        "hallucination_errors": len(invented(claimed, truth)),
        "negation_errors": int(flipped(claimed.finding, truth.finding)),
    }


def confused_sides(claimed: Facts, truth: Facts) -> tuple[str, ...]:
    """Claimed structures of which the truth has the other side and not this one."""
    said, true = _named(claimed), _named(truth)
    return tuple(sorted(name for name in said - true if _other_side(name) in true))


def invented(claimed: Facts, truth: Facts) -> tuple[str, ...]:
    """Claimed structures of which the truth has none on either side; nothing when it lists no structures.

    A list of structures is taken as complete. Label maps are, of what is in view by the data set's rule; a reference
    caption may leave out what is there, so against captions this is an upper bound.
    """
    if not truth.structures:
        return ()
    true = {_without_side(name) for name in _named(truth)}
    return tuple(sorted(name for name in claimed.structures if _without_side(name) not in true))


def flipped(claimed: str | None, true: str | None) -> bool:
    """One of the two findings denies the other: ``nodule`` and ``no nodule``; ``normal`` denies every finding."""
    for denial, finding in ((claimed, true), (true, claimed)):
        if denial and finding and (denial == f"no {finding}" or (denial == NORMAL and _is_positive(finding))):
            return True
    return False


def _is_positive(finding: str) -> bool:
    return finding != NORMAL and not finding.startswith("no ")


def _named(facts: Facts) -> set[str]:
    return {str(claim.value) for claim in claims(facts) if claim.field in ("structure", "region")}


def _without_side(name: str) -> str:
    side, _, rest = name.partition(" ")
    return rest if side in ("left", "right") else name


def _other_side(name: str) -> str | None:
    side, _, rest = name.partition(" ")
    other = {"left": "right", "right": "left"}.get(side)
    return f"{other} {rest}" if other else None
